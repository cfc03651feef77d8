"""Which networks does a client match on in iterative mode: those around the federation's present one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ddkit.base.ranges import Weight, in_range
from ddkit.errors import ConfigError
from ddkit.models.base import weights_by_name
from ddkit.networks.network import Network
from ddkit.networks.sources import NetworkSource
from ddkit.synthesis.base import Synthesizer


class FeaturesAndLogits(Network):
    """A view of a network whose features are its penultimate features followed by its logits.

    FedDM matches the class means of both; an objective that matches mean features does so through this view.
    """

    def __init__(self, network: Network) -> None:
        self.__dict__.update(network.__dict__)
        classifier = getattr(network.module, "classifier", None)
        if not isinstance(classifier, nn.Module):
            raise ConfigError(
                f"model '{network.spec.canonical()}' has no classifier on its features, whose logits iterative mode "
                f"matches: use a model of ddkit"
            )
        self._classifier = classifier

    def features(self, images: Tensor) -> Tensor:
        """Return features and logits side by side, (N, D + K)."""
        features = super().features(images)
        return torch.cat([features, self._classifier(features)], dim=1)


class NetworksAround(NetworkSource):
    r"""Networks near given weights (Xiong et al. 2023, "FedDM: Iterative Distribution Matching for
    Communication-Efficient Federated Learning").

    .. math:: \theta = \theta_r + \rho \, u \, \frac{g}{\|g\|}, \qquad g \sim N(0, I), \; u \sim U(0, 1)

    drawn anew at every outer step, so that no network is further than :math:`\rho` from the global one. Deviation: the
    paper truncates a Gaussian at the ball; in as many dimensions as a network has weights that puts nearly all of them
    on its surface, so lengths are drawn uniformly here.

    The networks have the classes of the whole federation, whatever the client's data have.

    Args:
        network: built for the federation's classes, with the global weights.
        radius: :math:`\rho`.

    Raises:
        ConfigError: a radius that is negative or not finite, or a model without a classifier.
    """

    @in_range("")
    def __init__(self, network: Network, radius: Weight) -> None:
        self.radius = radius
        self._view = FeaturesAndLogits(network)
        self._origin = torch.cat([parameter.detach().flatten() for parameter in network.module.parameters()])

    def current(self) -> Network:
        """Return the network with newly drawn weights."""
        generator = self.streams("networks")
        direction = torch.randn(len(self._origin), generator=generator)
        length = self.radius * float(torch.rand((), generator=generator))
        flat = self._origin + direction.to(self._origin) * (length / float(direction.norm()))
        with torch.no_grad():
            for name, part in weights_by_name(self._view.module, flat).items():
                self._view.module.get_parameter(name).copy_(part)
        self.drawn += 1
        return self._view

    def life(self) -> int:
        """One outer step."""
        return 1

    def after_step(self, synthesizer: Synthesizer, *, last: bool) -> None:
        """Keep nothing between steps but their number."""

    def metadata(self) -> dict[str, Any]:
        """Return the radius."""
        return {"radius": self.radius}

    def state_dict(self) -> dict[str, Any]:
        """Return how many networks were drawn."""
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting."""
        self.drawn = int(state["drawn"])
