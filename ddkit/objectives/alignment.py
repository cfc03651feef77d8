"""Feature alignment: class means of every layer, and synthetic class centres that classify real features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ddkit.base.ranges import Count, Weight
from ddkit.errors import ConfigError
from ddkit.networks.network import Network
from ddkit.networks.signal import LayerFeatures
from ddkit.objectives.base import Context, Objective, registry
from ddkit.objectives.class_means import class_chunk, class_means
from ddkit.objectives.synthetic import SyntheticSide
from ddkit.synthesis.base import Synthesizer


def default_layer_weights(layers: int) -> list[float]:
    """Return the weight of every layer's term: 0.1 for early blocks, 1 for the last block, 2 for its pooled output.

    The authors' program weights the four layers of a ConvNet of depth 3 with 0.1, 0.1, 1, 1 and adds the last term a
    second time unweighted. Sums over positions make early layers large, hence 0.1. Other depths continue the pattern,
    which is a choice of ddkit.
    """
    return [*[0.1] * (layers - 2), 1.0, 2.0][-layers:]


def discrimination_loss(real: Tensor, centres: Tensor, rows: Tensor) -> Tensor:
    r"""Return how badly the class centres, read as a linear classifier, classify real features.

    .. math:: -\frac{1}{N}\sum_i \log\operatorname{softmax}(f_i \cdot [\bar f_1, \dots, \bar f_K])_{y_i}

    Survey Eqs. 33 and 34 (Lei and Tao), the latter with the minus sign that it lacks in print: without it the real
    features are driven away from the centre of their own class. Plain inner products, no normalisation, temperature
    or bias, as in the authors' program.

    Args:
        real: (N, D) features of real images, constants.
        centres: (K, D) synthetic class means; differentiable.
        rows: (N,) int64, the row of ``centres`` of each image's class.

    Returns:
        a scalar.
    """
    return F.cross_entropy(real @ centres.T, rows.to(centres.device))


@registry.register("alignment")
class FeatureAlignment(Objective):
    r"""Match the class means of every layer and let synthetic centres classify real features (Wang et al. 2022, CVPR).

    CAFE, arXiv 2203.01531; survey Eqs. 32 to 34. With :math:`\bar f^l_c` the mean over class c of the output of layer
    l, for the real batch :math:`B` or the synthetic set :math:`S`, and :math:`L_d` of :func:`discrimination_loss`,

    .. math::
        L(S) = \sum_l w_l \sum_c \big\|\bar f^l_c(S) - \bar f^l_c(B)\big\|^2
               + \beta\, L_d\big(f^L(B), \bar f^L(S)\big)

    Squared differences are summed over channels and positions. Layers are those of ``Network.feature_maps``: for a
    ConvNet the output of every block before its pooling, then the pooled output of the last one.

    The real side has no graph. The authors' program also adds the cross-entropy of the network on the real batch and
    differentiates through that batch; both reach the network only, whose gradients it discards, so they are left out.

    The synthetic side goes through the network ``class_chunk`` classes at a time. :math:`L_d` couples all classes, so
    with more than one chunk the class means come first, without a graph, and every chunk is passed again to receive
    the gradient of the loss with respect to its means: exact, for one more forward pass of the synthetic images.

    Feature maps follow the run's precision. Means and both terms are computed in the format of the weights (float32):
    inner products of hundreds with gaps of ten would drown in the rounding of bfloat16.

    Args:
        weights: one per layer, not negative; None for :func:`default_layer_weights`.
        beta: weight of the mean discrimination loss. The authors add 0.01 times the *sum* over 2560 real images (10
            classes of 256), which is 25.6 times the mean; on the mean, the strength does not change with the batch
            size or the number of classes.
        real_batch: real images per class and step (all of a smaller class).
        class_chunk: classes of the synthetic side differentiated together; None chooses by image count.

    Raises:
        ConfigError: a value out of range, or weights with which nothing is matched.
    """

    gradient_scale = "gradient"

    def __init__(
        self,
        weights: list[Weight] | None = None,
        beta: Weight = 25.6,
        real_batch: Count = 256,
        class_chunk: Count | None = None,
    ) -> None:
        if weights is not None and not weights:
            raise ConfigError("objective.weights=[] names no layer: give one weight per layer, or leave it out")
        if weights is not None and not any(weights) and not beta:
            raise ConfigError("objective.weights and objective.beta are all 0, so nothing is matched: raise one")
        self.weights = weights
        self.beta = beta
        self.real_batch = real_batch
        self.class_chunk = class_chunk

    def setup(self, context: Context, synthesizer: Synthesizer) -> None:
        """Count the layers of the network and choose the chunk."""
        super().setup(context, synthesizer)
        if "labels" in synthesizer.parameter_groups():
            raise ConfigError(
                "feature alignment does not look at labels, so learned labels would never change: "
                "use synthesis.labels=hard or soft, or the gradient objective"
            )
        context.signal.require("layer_features")
        layers = _count_layers(context.network)
        self.layer_weights = default_layer_weights(layers) if self.weights is None else self.weights
        if len(self.layer_weights) != layers:
            raise ConfigError(
                f"objective.weights has {len(self.layer_weights)} values, but the network "
                f"'{context.network.spec.canonical()}' has {layers} layers: give one weight per layer, or none"
            )
        self.chunk = class_chunk(context, synthesizer, self.class_chunk)

    def passes_per_step(self, synthesizer: Synthesizer) -> float:
        """One forward pass per real image, forward (twice in several chunks) and backward per synthetic one."""
        whole = (self.class_chunk or synthesizer.num_classes) >= synthesizer.num_classes
        synthetic = 3.0 if whole else 4.0
        return (self.real_shown + synthetic * synthesizer.batch_per_class) * synthesizer.num_classes

    def backward(self, synthesizer: Synthesizer) -> dict[str, float]:
        """Take the network of this step and accumulate the gradient of the loss.

        Returns:
            ``loss``; its parts ``features`` (with ``features_1`` and so on, the weighted term of each layer) and
            ``discrimination`` (the mean, before ``beta``). Features grow while a network is trained, so that
            ``features`` rises during a network's life and is no sign of convergence.
        """
        context = self.context
        network = context.networks.current()
        network.module.requires_grad_(False)
        classes = torch.arange(context.num_classes)
        draws = context.augmentation.draw(context.num_classes, context.streams("augmentation"))
        real = context.signal.layer_features(network, classes, draws)
        side = SyntheticSide(synthesizer, context.augmentation, draws, context.streams("synthetic"))
        chunks = classes.split(self.chunk)
        with torch.set_grad_enabled(len(chunks) == 1):
            passed = [self._means(network, side, chunk) for chunk in chunks]
        means = [torch.cat(layer).detach().requires_grad_() for layer in zip(*passed, strict=True)]
        loss, scalars = self._loss(means, real)
        gradients = torch.autograd.grad(loss, means)
        for chunk, own in zip(chunks, passed, strict=True):
            own = own if len(chunks) == 1 else self._means(network, side, chunk)
            chosen = chunk.to(network.device)
            torch.autograd.backward(own, [g[chosen] for g in gradients], inputs=synthesizer.learnable())
        return scalars

    def _means(self, network: Network, side: SyntheticSide, classes: Tensor) -> list[Tensor]:
        """Return the means (G, *map shape) of the synthetic images of ``classes`` (G,), one tensor per layer."""
        seen = side.batch(classes)
        return [class_means(layer, seen.group, classes) for layer in network.feature_maps(seen.images)]

    def _loss(self, means: Sequence[Tensor], real: LayerFeatures) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of the class means (K, *map shape) of every layer, and its parts."""
        terms = torch.stack(
            [
                weight * (own - other).square().sum()
                for weight, own, other in zip(self.layer_weights, means, real.means, strict=True)
            ]
        )
        discrimination = discrimination_loss(real.last, means[-1].flatten(1), real.rows)
        features = terms.sum()
        loss = features + self.beta * discrimination
        scalars = {"loss": loss, "features": features, "discrimination": discrimination}
        scalars |= {f"features_{number}": term for number, term in enumerate(terms, start=1)}
        return loss, {name: float(value.detach()) for name, value in scalars.items()}


@torch.no_grad()
def _count_layers(network: Network) -> int:
    """Return how many feature maps the network has, from a pass of one blank image."""
    module = network.module
    # Eagerly, as compiling for one image would not pay; Network.feature_maps refuses a model that has none.
    maps = getattr(module, "feature_maps", network.feature_maps)
    was_training = module.training
    module.eval()  # lest batch norm counts the image
    try:
        return len(maps(network.prepare(torch.zeros(1, *network.shape))))
    finally:
        module.train(was_training)
