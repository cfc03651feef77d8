"""Matching networks that are trained on the synthetic set while it changes: a pool at all stages of training."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ddkit.base.ranges import Count, Rate, Whole
from ddkit.models.kernels.base import Kernel
from ddkit.models.kernels.classifier import regression_rows
from ddkit.models.kernels.features import NetworkFeatures
from ddkit.models.spec import ModelSpec
from ddkit.networks.network import Network
from ddkit.networks.setting import Setting
from ddkit.networks.sources import NetworkSource, registry
from ddkit.networks.training import require_finite
from ddkit.synthesis.base import Synthesizer

#: Share of the newest batch in the running statistics of batch norm (0.1 in Flax's convention): a network lives for
#: about a hundred updates, so that PyTorch's usual 0.1 would lag by a tenth of its life.
_STATISTICS = 0.9


@registry.register("online-pool")
class OnlinePool(NetworkSource):
    r"""A pool of networks that take one Adam step on the synthetic set whenever they have served an outer step.

    The model pool of FRePo (Zhou, Nezhadarya and Ba 2022, arXiv 2206.00719). One network is drawn uniformly for every
    outer step and shows its features in evaluation mode (running statistics of batch norm). After the outer step it
    takes one step of Adam, in training mode, on the updated set,

    .. math:: \tfrac{1}{2 n} \sum_{i=1}^n \sum_c \big(g(h(s_i))_c - y_{ic}\big)^2

    with hard labels as one-hot - 1/K, soft ones minus 1/K and free rows as they are, without augmentation. It is drawn
    anew, with fresh statistics and an empty Adam state, in place of the update after its counter has passed
    ``max_updates``. Counters start spread over a life so that the networks are not all renewed together, but all start
    with fresh weights, as in the authors' program: network i takes ``max_updates + 1 - i * (max_updates // size)``
    steps, every later one ``max_updates + 1``.

    One module holds the weights of the network of this step; those of the others and all moments are kept beside it,
    ``3 * size`` copies of the weights in memory and in a checkpoint.

    Args:
        size: networks in the pool.
        max_updates: a network whose counter is above this is drawn anew.
        lr: learning rate of Adam.
        batch: most synthetic images per step; of more, as many are drawn without replacement.
    """

    def __init__(self, size: Count = 10, max_updates: Whole = 100, lr: Rate = 3e-4, batch: Count = 1000) -> None:
        self.size = self.in_turn = size
        self.max_updates, self.lr, self.batch = max_updates, lr, batch

    def setup(self, setting: Setting) -> None:
        """Receive the network and the streams; the pool is empty yet."""
        super().setup(setting)
        for layer in self.network.module.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.momentum = _STATISTICS
        self.weights: list[dict[str, Tensor]] = []
        self.optimisers: list[torch.optim.Adam] = []
        self.counters: list[int] = []
        self.numbers: list[int] = []
        self._chosen: int | None = None

    def current(self) -> Network:
        """Return the network with the weights of one of the pool, drawn uniformly, in evaluation mode.

        Asked again within an outer step, it returns the same.
        """
        if not self.weights:
            self._fill()
        if self._chosen is None:
            self._take(int(torch.randint(self.size, (1,), generator=self.streams("pool"))))
        self.network.module.eval()
        return self.network

    def _take(self, chosen: int) -> None:
        """Give the module the weights of the network of this step."""
        self._chosen, self.served = chosen, self._updates(chosen)
        self.network.module.load_state_dict(self.weights[chosen])

    def kernel(self) -> Kernel:
        """Return the inner products of the features of this step's network."""
        network = self.current()
        network.module.requires_grad_(False)
        return NetworkFeatures([network], model=network.spec.canonical())

    def age(self) -> tuple[int, int]:
        """Return the number of this step's network and how many outer steps it has served."""
        return (self.drawn - 1 if self._chosen is None else self.numbers[self._chosen]), self.served

    def after_step(self, synthesizer: Synthesizer, *, last: bool) -> None:
        """Train this step's network on the updated synthetic set, or draw it anew at the end of its life."""
        chosen, self._chosen = self._chosen, None
        if chosen is None or last:
            return
        if self.counters[chosen] > self.max_updates:
            self._renew(chosen)
            return
        self._train(chosen, synthesizer)
        self.counters[chosen] += 1
        self.weights[chosen] = self.network.snapshot()

    def _train(self, chosen: int, synthesizer: Synthesizer) -> None:
        """Take one step of Adam on the synthetic images."""
        index = torch.arange(len(synthesizer))
        if len(index) > self.batch:
            index = torch.randperm(len(index), generator=self.streams("inner-training"))[: self.batch]
        network, kind = self.network, synthesizer.labels.artifact_kind
        with torch.no_grad():
            images, targets = synthesizer(index.to(synthesizer.classes.device))
            rows = regression_rows(targets, network.num_classes, kind).to(network.device, network.dtype)
        parameters = list(network.module.train().requires_grad_(True).parameters())
        error = network.logits(images) - rows
        loss = 0.5 * error.square().sum() / len(rows)
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        self.optimisers[chosen].step()
        for parameter in parameters:
            parameter.grad = None
        network.module.eval()
        require_finite(network, "the synthetic set", f"lower networks.lr (now {self.lr}) or optimiser.lr")

    def _fill(self) -> None:
        """Draw the first networks, their counters spread over a life."""
        for _ in range(self.size):
            self.network.reset(self.streams.integer("networks"))
            self.weights.append(self.network.snapshot())
        self._make_optimisers()
        self.counters = [position * self._offset() for position in range(self.size)]
        self.numbers, self.drawn = list(range(self.size)), self.size

    def _make_optimisers(self) -> None:
        """Give every network an Adam of its own, all of them over the one module."""
        self.optimisers = [torch.optim.Adam(self.network.module.parameters(), lr=self.lr) for _ in range(self.size)]

    def _renew(self, chosen: int) -> None:
        """Draw fresh weights; forget the moments."""
        self.network.reset(self.streams.integer("networks"))
        self.optimisers[chosen].state.clear()
        self.counters[chosen], self.numbers[chosen] = 0, self.drawn
        self.drawn += 1
        self.weights[chosen] = self.network.snapshot()

    def _offset(self) -> int:
        """Return by how much the first counters differ from network to network."""
        return self.max_updates // self.size

    def _updates(self, position: int) -> int:
        """Return how many steps the network at ``position`` has taken; its counter may have started above zero."""
        first = self.numbers[position] < self.size
        return self.counters[position] - (position * self._offset() if first else 0)

    def passes_per_step(self, synthesizer: Synthesizer) -> float:
        """Synthetic images trained on per outer step."""
        return min(len(synthesizer), self.batch)

    def metadata(self) -> dict[str, Any]:
        """Return how many networks were drawn, and the model without norms on which the paper's results are judged.

        FRePo distils with batch norm, whose statistics come from synthetic data alone, and evaluates without any.
        """
        card: dict[str, Any] = {"drawn": self.drawn}
        spec = self.network.spec
        if spec.options.get("norm", "none") != "none":
            card["evaluation_model"] = ModelSpec(spec.name, {**spec.options, "norm": "none"}).canonical()
        return card

    def state_dict(self) -> dict[str, Any]:
        """Return the weights, statistics and moments of all networks, how old they are, and which is drawn already.

        One is drawn between two steps where a result in the middle of the run has asked for its kernel.
        """
        return {
            "drawn": self.drawn,
            "chosen": self._chosen,
            "counters": list(self.counters),
            "numbers": list(self.numbers),
            "weights": [dict(weights) for weights in self.weights],
            "moments": [copy.deepcopy(optimiser.state_dict()["state"]) for optimiser in self.optimisers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the same pool."""
        self.drawn, self._chosen = int(state["drawn"]), None
        self.counters, self.numbers = ([int(value) for value in state[key]] for key in ("counters", "numbers"))
        if not len(self.counters) == len(self.numbers) == len(state["weights"]):
            raise ValueError(f"{len(state['weights'])} networks have {len(self.counters)} ages: they are no pool")
        device = self.network.device
        self.weights = [{name: value.to(device) for name, value in saved.items()} for saved in state["weights"]]
        if self.weights:
            self._make_optimisers()
        for optimiser, moments in zip(self.optimisers, state["moments"], strict=True):
            optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})
        if state["chosen"] is not None:
            self._take(int(state["chosen"]))
