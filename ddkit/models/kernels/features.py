"""The kernel of network features: inner products under one or several networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ddkit.base.device import layout
from ddkit.base.ranges import Count, Rate, Weight, in_range
from ddkit.base.streams import derive_seed
from ddkit.errors import ConfigError
from ddkit.models.kernels.base import Kernel, registry
from ddkit.models.kernels.ridge import solve_ridge
from ddkit.models.spec import ModelSpec


class FeatureMap(Protocol):
    """A :class:`~ddkit.networks.Network` or a model: anything with flat features."""

    def features(self, images: Tensor, /) -> Tensor:
        """Return (N, F) for images (N, C, H, W)."""
        ...


class NetworkFeatures(Kernel):
    r"""Inner products of the features of M networks.

    .. math::
        K(x, x') = \frac{s}{M F} \sum_{m=1}^M \phi_m(x)^\top \phi_m(x') + b,
        \qquad \text{or } \phi(x)^\top \phi(x') \text{ without } s

    The plain form with one network is FRePo's (Zhou, Nezhadarya and Ba 2022, arXiv 2206.00719; survey Eq. 17). With
    :math:`s = 2, b = 0.01` a random last layer of weight variance 2/(MF) and bias variance 0.01 is integrated out, as
    in RFAD (Loo et al. 2022, arXiv 2210.12067).

    Features come in the networks' number format, the Gram matrix is formed in float64: at n of about the number of
    features float32 is not positive definite any more. Targets go through body by body, so that no more than one body's
    features of a chunk are held; with several bodies the support is differentiated body by body too (its forward pass
    is repeated instead of kept), which is the same gradient at the memory of one body. The weights get no gradient.
    With more support images than features the regression is solved for the F weights instead of the n coefficients.

    Args:
        bodies: feature maps, on one device; batch norm has to be in evaluation mode.
        scale: s; None for the plain form, which has no bias.
        bias: b, at least 0.
        model: text of their architecture, for the description.

    Raises:
        ConfigError: no body, a scale that is not positive, or a negative bias or one without a scale.
    """

    name = "network-features"

    @in_range("networks")
    def __init__(
        self, bodies: Sequence[FeatureMap], scale: Rate | None = None, bias: Weight = 0.0, model: str = "unknown"
    ) -> None:
        if not bodies:
            raise ConfigError("a kernel of network features needs at least one network")
        if bias and scale is None:
            raise ConfigError(f"the bias {bias} of a feature kernel must be 0 without a scale")
        self.bodies, self.scale, self.bias, self.model = list(bodies), scale, float(bias), model

    def represent(self, images: Tensor) -> Tensor:
        """Return the features of all bodies side by side: (n, M * F), with the graph to ``images``."""
        return torch.cat([self._differentiable(body, images) for body in self.bodies], dim=1)

    def gram(self, support: Tensor) -> Tensor:
        """Return K_ss (n, n), formed in float64."""
        wide = support.double()
        return self._factor(support) * (wide @ wide.T) + self.bias

    def cross(self, images: Tensor, support: Tensor) -> Tensor:
        """Return K_ts (B, n): products in the features' format, summed over the bodies in float64."""
        total = torch.zeros((), dtype=torch.float64, device=support.device)
        for body, mine in zip(self.bodies, support.chunk(len(self.bodies), dim=1), strict=True):
            with torch.no_grad():
                features = _features(body, images)
            total = total + (features @ mine.to(features).T).double()
        return self._factor(support) * total + self.bias

    def describe(self) -> dict[str, Any]:
        """Return the architecture, scale and bias; the weights are not described."""
        return {"name": self.name, "model": self.model, "scale": self.scale, "bias": self.bias}

    def fit(self, support: Tensor, labels: Tensor, regulariser: float) -> Tensor:
        """Return (n, K) coefficients of the support, or (M * F + 1, K) weights where there are fewer features."""
        if not self._primal(support):
            return super().fit(support, labels, regulariser)
        wide = support.double()
        ones = wide.new_ones(len(wide), 1)
        rows = torch.cat([self._factor(support) ** 0.5 * wide, self.bias**0.5 * ones], dim=1)
        return solve_ridge(rows.T @ rows, rows.T @ labels.to(rows), regulariser, rows.square().sum() / len(rows))

    def predict(self, images: Tensor, support: Tensor, coefficients: Tensor) -> Tensor:
        """Return the regression (B, K) on images (B, C, H, W) in float64."""
        if not self._primal(support):
            return super().predict(images, support, coefficients)
        weights, offset = coefficients[:-1], coefficients[-1]
        # Weights are one more support whose inner products with the targets are wanted.
        products = self.cross(images, weights.T.to(support.dtype)) - self.bias
        return products / self._factor(support) ** 0.5 + self.bias**0.5 * offset

    def _primal(self, support: Tensor) -> bool:
        return support.shape[0] > support.shape[1] + 1

    def _factor(self, support: Tensor) -> float:
        return 1.0 if self.scale is None else self.scale / support.shape[1]

    def _differentiable(self, body: FeatureMap, images: Tensor) -> Tensor:
        if len(self.bodies) == 1 or not (torch.is_grad_enabled() and images.requires_grad):
            return _features(body, images)
        again = checkpoint(_features, body, images, use_reentrant=False, preserve_rng_state=False)
        return cast(Tensor, again)


class RandomFeatures(NetworkFeatures):
    r"""The kernel of random networks: an estimate of the NNGP kernel of an infinitely wide one (RFAD).

    Its description names the seed of fixed bodies; the kernel that it builds is theirs, whatever bodies this one has.

    Args:
        bodies: random networks.
        model: text of their architecture.
        count: bodies of the described kernel.
        seed: from which these are drawn.
        scale: see :class:`NetworkFeatures`.
        bias: see :class:`NetworkFeatures`.
    """

    name = "random-features"

    @in_range("networks")
    def __init__(
        self,
        bodies: Sequence[FeatureMap],
        *,
        model: str,
        count: Count,
        seed: int,
        scale: float | None = 2.0,
        bias: float = 0.01,
    ) -> None:
        super().__init__(bodies, scale, bias, model)
        self.count, self.seed = count, seed

    def describe(self) -> dict[str, Any]:
        """Return the architecture with count and seed of fixed networks."""
        return {**super().describe(), "count": self.count, "seed": self.seed}


def _features(body: FeatureMap, images: Tensor) -> Tensor:
    """Return (N, F) in the number format of the network, without a graph to its weights where they are frozen."""
    if isinstance(body, nn.Module):
        weight = next(body.parameters())
        images = images.to(weight.device, weight.dtype, memory_format=layout(images.shape))
    return body.features(images)


@registry.register(RandomFeatures.name)
def random_features(
    options: Mapping[str, Any], shape: tuple[int, int, int], num_classes: int, device: torch.device
) -> RandomFeatures:
    """Draw the ``count`` networks that a :class:`RandomFeatures` describes."""
    spec = ModelSpec.parse(str(options["model"]))
    bodies: list[FeatureMap] = []
    for number in range(int(options["count"])):
        body = spec.build(shape, num_classes, derive_seed(int(options["seed"]), "body", number)).requires_grad_(False)
        body.to(device).to(memory_format=layout(shape))  # type: ignore[call-overload]
        bodies.append(cast(FeatureMap, body))
    return RandomFeatures(bodies, **options)


@registry.register(NetworkFeatures.name)
def trained_features(
    options: Mapping[str, Any], shape: tuple[int, int, int], num_classes: int, device: torch.device
) -> NetworkFeatures:
    """Refuse: a description does not hold the weights of trained networks."""
    raise ConfigError(
        f"kernel '{NetworkFeatures.name}' is that of networks trained on the result ({options.get('model')}), whose "
        f"weights its description does not hold: train them and use NetworkFeatures(networks)"
    )
