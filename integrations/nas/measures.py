"""What can be said about candidates without training them: size, work, and gradients of one batch?"""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddkit.base.precision import pass_cost
from ddkit.base.streams import Streams, derive_seed
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData
from ddkit.errors import ConfigError, unknown_name
from ddkit.evaluation.evaluate import network_seeds
from ddkit.integrations.nas.entries import Cost, Entry
from ddkit.integrations.nas.proxy import one_line
from ddkit.integrations.nas.ranking import Ranking
from ddkit.integrations.nas.space import Builder, SearchSpace
from ddkit.models.base import Shape
from ddkit.models.spec import ModelSpec


class NotApplicableError(ConfigError):
    """A measure that says nothing about this kind of network."""


@dataclass(frozen=True)
class Batch:
    """One batch of preprocessed images.

    Args:
        images: (B, C, H, W) float32.
        labels: class indices (B,) or rows (B, K).
    """

    images: Tensor
    labels: Tensor

    @property
    def shape(self) -> Shape:
        """Channels, height and width of an image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width


Measure = Callable[[nn.Module, Batch], float]
"""``measure(model, batch)``: a number, larger is better; raises :class:`NotApplicableError`."""


def parameters(model: nn.Module, batch: Batch) -> float:
    """Return the number of weights."""
    return float(sum(weight.numel() for weight in model.parameters()))


def flops(model: nn.Module, batch: Batch) -> float:
    """Return the multiply-adds of convolutions and linear layers for one image, forward."""
    return float(pass_cost(model, batch.shape).multiply_adds)


def gradient_norm(model: nn.Module, batch: Batch) -> float:
    r"""Return :math:`\sum_l \|\partial L / \partial W_l\|_2` over convolutions and linear layers, L the cross-entropy.

    `"Zero-Cost Proxies for Lightweight NAS" <https://arxiv.org/abs/2101.08134>`_ (Abdelfattah et al., 2021).
    """
    _, gradients = _layers_and_gradients(model, F.cross_entropy(model(batch.images), batch.labels))
    return sum(float(gradient.norm()) for gradient in gradients)


def snip(model: nn.Module, batch: Batch) -> float:
    r"""Return :math:`\sum_i |\theta_i \, \partial L / \partial \theta_i|` over convolutions and linear layers.

    `"SNIP: Single-shot Network Pruning based on Connection Sensitivity" <https://arxiv.org/abs/1810.02340>`_ (Lee et
    al., 2019), summed to a score by Abdelfattah et al., 2021.
    """
    weights, gradients = _layers_and_gradients(model, F.cross_entropy(model(batch.images), batch.labels))
    return sum(float((w.detach() * g).abs().sum()) for w, g in zip(weights, gradients, strict=True))


def synflow(model: nn.Module, batch: Batch) -> float:
    r"""Return :math:`\log \sum_i \theta_i \, \partial R / \partial \theta_i` for absolute weights and an image of ones.

    R is the sum of the outputs, i runs over the weights of convolutions and linear layers. `"Pruning neural networks
    without any data by iteratively conserving synaptic flow" <https://arxiv.org/abs/2006.05467>`_ (Tanaka et al.,
    2020), in float64: the flow of a wide network exceeds float32.

    Raises:
        NotApplicableError: normalisation layers, which undo the scale that the flow measures.
    """
    kinds = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
    if any(isinstance(layer, kinds) for layer in model.modules()):
        raise NotApplicableError("SynFlow measures the scale that normalisation layers undo")
    model = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.abs_()
    flow = model(torch.ones(1, *batch.shape, dtype=torch.float64)).sum()
    weights, gradients = _layers_and_gradients(model, flow)
    total = sum(float((w.detach() * g).sum()) for w, g in zip(weights, gradients, strict=True))
    return math.log(total) if total > 0 else -math.inf


def naswot(model: nn.Module, batch: Batch) -> float:
    r"""Return :math:`\log |\det K|` with :math:`K_{ij} = N_A - d_H(c_i, c_j)`.

    `"Neural Architecture Search without Training" <https://arxiv.org/abs/2006.04647>`_ (Mellor et al., 2021), equation
    2: c_i says which of the N_A rectified units are active for image i, d_H is the Hamming distance.

    Raises:
        NotApplicableError: no rectifier modules, or two images that no unit tells apart.
    """
    kinds = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ReLU6)
    rectifiers = [layer for layer in model.modules() if isinstance(layer, kinds)]
    if not rectifiers:
        raise NotApplicableError("NASWOT counts the active units of rectifiers and there are no such modules")
    size = len(batch.images)
    kernel = torch.zeros(size, size, dtype=torch.float64)

    def count(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        active = (inputs[0].detach() > 0).reshape(size, -1).double()
        kernel.add_(active @ active.T).add_((1 - active) @ (1 - active).T)

    handles = [layer.register_forward_pre_hook(count) for layer in rectifiers]
    try:
        with torch.no_grad():
            model.train()(batch.images)
    finally:
        for handle in handles:
            handle.remove()
    value = float(torch.linalg.slogdet(kernel).logabsdet)
    if not math.isfinite(value):
        raise NotApplicableError("two images of the batch activate the same units, so the kernel is singular")
    return value


MEASURES: dict[str, Measure] = {
    "params": parameters,
    "flops": flops,
    "grad-norm": gradient_norm,
    "snip": snip,
    "synflow": synflow,
    "naswot": naswot,
}
"""The measures by name."""


def zero_cost(
    name: str,
    space: SearchSpace | Mapping[str, Builder | ModelSpec | str],
    data: DistilledDataset | RealData,
    *,
    batch: int = 64,
    seeds: int = 1,
    seed: int = 0,
) -> Ranking:
    """Rank candidates by a measure of untrained networks; what a proxy that trains has to beat.

    Args:
        name: one of :data:`MEASURES`: ``params``, ``flops``, ``grad-norm``, ``snip``, ``synflow``, ``naswot``.
        space: the candidates; a mapping is what :class:`SearchSpace` takes.
        data: training images (or a distilled set) of which one batch is shown.
        batch: images in it, drawn at random.
        seeds: initialisations per candidate; the same as those of a :class:`ProxyRanker` with the same seed.
        seed: of the batch and the initialisations.

    Returns:
        A ranking whose candidates are ``not applicable``, without a score, where the measure says nothing about them.

    Raises:
        UnknownNameError: there is no such measure.
        ConfigError: no images or no seeds.
    """
    if name not in MEASURES:
        raise unknown_name("zero-cost measure", name, MEASURES)
    if batch < 2 or seeds < 1:
        raise ConfigError(f"batch={batch}, seeds={seeds}: give at least 2 images and 1 seed")
    shown = _batch_of(data, batch, Streams(seed)("zero-cost batch"))
    classes = data.num_classes
    entries = [
        _measured(name, candidate, spec, shown, classes, network_seeds(seed, spec, seeds))
        for candidate, spec in SearchSpace.of(space).items()
    ]
    scores = {entry.score for entry in entries if entry.usable}
    separates = len(scores) != 1 or len(entries) == 1
    note = "the proxy does not separate the candidates: all scores are equal"
    if not scores:
        raise ConfigError(f"'{name}' does not apply to any of {len(entries)} candidates: {entries[0].message}")
    if not separates:
        warnings.warn(note, stacklevel=2)
    cost = Cost(
        seconds=sum(entry.seconds for entry in entries),
        cpu_seconds=sum(entry.cpu_seconds for entry in entries),
        image_passes=sum(entry.image_passes for entry in entries),
        images=0 if name in _WITHOUT_IMAGES else len(shown.images),
    )
    settings = {"batch": batch, "seeds": seeds, "seed": seed}
    return Ranking(tuple(entries), cost, name, separates, () if separates else (note,), settings)


_WITHOUT_IMAGES = ("params", "flops", "synflow")


def _batch_of(data: DistilledDataset | RealData, count: int, generator: torch.Generator) -> Batch:
    index = torch.randperm(len(data), generator=generator)[:count]
    if isinstance(data, RealData):
        return Batch(data.batch(index), data.labels[index.to(data.labels.device)])
    images, labels = data.tensors()
    return Batch(images[index], labels[index])


def _measured(measure: str, name: str, spec: ModelSpec, batch: Batch, num_classes: int, seeds: Sequence[int]) -> Entry:
    status, message, scores, count = "ok", "", [], 0
    started, cpu_started = time.perf_counter(), time.process_time()
    try:
        for seed in seeds:
            model = spec.build(batch.shape, num_classes, derive_seed(seed, "initialisation")).train()
            count = sum(weight.numel() for weight in model.parameters())
            value = MEASURES[measure](model, batch)
            if not math.isfinite(value):
                raise NotApplicableError(f"the measure is {value}")
            scores.append(value)
    except NotApplicableError as error:
        status, message, scores = "not applicable", str(error), []
    except Exception as error:  # a candidate's own code may raise anything
        status, message, scores = "failed", one_line(error), []
    return Entry(
        name=name,
        status=status,
        scores=tuple(scores),
        seconds=time.perf_counter() - started,
        cpu_seconds=time.process_time() - cpu_started,
        image_passes=0 if measure in _WITHOUT_IMAGES else len(scores) * len(batch.images),
        parameters=count,
        message=message,
    )


def _layers_and_gradients(model: nn.Module, value: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return the weights of convolutions and linear layers, which the papers prune, and the gradients of ``value``."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    layers = [layer for layer in model.modules() if isinstance(layer, kinds)]
    weights: list[Tensor] = [layer.weight for layer in layers if layer.weight.requires_grad]
    if not weights:
        raise NotApplicableError("it sums over weights of convolutions and linear layers and there are none")
    gradients = torch.autograd.grad(value, weights, allow_unused=True, materialize_grads=True)
    return weights, list(gradients)
