"""Distribution matching: class means of features under random networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ddkit.augment.base import Draws
from ddkit.base.ranges import Count, Share, Weight
from ddkit.errors import ConfigError, unknown_name
from ddkit.networks.network import Network
from ddkit.networks.sources import NetworkSource
from ddkit.objectives.base import Context, Objective, accumulate, registry
from ddkit.objectives.class_means import class_chunk as chunk_of_classes
from ddkit.objectives.class_means import class_means
from ddkit.objectives.synthetic import SyntheticBatch, SyntheticSide
from ddkit.synthesis.base import Synthesizer

#: Real images of each class by which the accuracy of a network is estimated.
_JUDGED = 10
#: How far the synthetic features (N, D) of some classes are from the real side: from features, the class of every image
#: (N,) and those classes (G,) to a scalar.
Distance = Callable[[Tensor, Tensor, Tensor], Tensor]


@registry.register("distribution")
class DistributionMatching(Objective):
    r"""Match the mean feature of every class (Zhao and Bilen 2023, WACV, arXiv 2110.04181; survey Eq. 31).

    .. math::
        L(S) = \sum_c \Big\| \tfrac{1}{|B_c|}\sum_{x \in B_c} \psi_\theta(A_{\omega_c}(x))
               - \tfrac{1}{|S_c|}\sum_{s \in S_c} \psi_\theta(A_{\omega_c}(s)) \Big\|^2

    with :math:`\theta` drawn anew at every step, :math:`\psi_\theta` the network without its classifier and
    :math:`A_{\omega_c}` one Siamese augmentation per class. The sum runs over classes and features, as published, so a
    suitable learning rate grows with IPC (each image's gradient is proportional to 1/IPC); nothing is rescaled here.

    With ``pair_weight`` :math:`\lambda` (IT-GAN, Zhao and Bilen 2022, arXiv 2204.07513) every image is also held near
    the real image :math:`x_s` from which it started, as seen by the same network and augmentation:

    .. math::
        (1 - \lambda) L(S) + \lambda \sum_c \tfrac{1}{|S_c|} \sum_{s \in S_c}
            \| \psi_\theta(A_{\omega_c}(s)) - \psi_\theta(A_{\omega_c}(x_s)) \|^2

    ``ce_weight`` adds the mean cross-entropy of the (augmented) synthetic images under the network, times this weight.
    It is part of neither DM, IT-GAN nor KFS; it says something only where the networks are trained at least partly.
    With ``ce_network=last`` it is that under the network at the end of the training run of which the present one is a
    stage (DANCE, Zhang et al. 2024, IJCAI), with augmentations of its own, in a second pass over the images. CIFAR-10,
    ten images of four formations a class, 300 steps, two training runs of 3.3 epochs, weight 50, width 32, on held-out
    training images: 52.0 % under the last network, 49.4 % under the same one, 48.0 % without under random networks.

    With ``ce_by_accuracy`` (IDM, Zhao et al. 2023, CVPR, arXiv 2307.09742) the weight is multiplied by the accuracy in
    percent of the network that it is taken under, so that networks in training say little at first; asked of a few real
    images at every step, where the authors count over the training of the network. Theirs is the sum over classes of
    the mean of each: their weight w is ``ce_weight`` = K w here.

    All classes of the real side share one stream of forward passes; the synthetic side is differentiated
    ``class_chunk`` classes at a time, which is exact for every network without batch norm.

    A compiled bfloat16 run uses that format on both sides (weights, means and the loss stay float32). Compiled, the
    differentiated side takes 58 instead of 142 ms for 100 images of 3x32x32 on two CPU cores, and on MNIST at IPC 1 the
    accuracy changed by -0.1 points with a 95 % interval of -1.5 to +1.3 (three seeds, ``benchmarks/results``).

    Args:
        real_batch: real images per class and step (all of a smaller class).
        class_chunk: classes of the synthetic side differentiated together; None chooses by image count.
        pair_weight: weight of the distance to the paired real images, in [0, 1].
        ce_weight: weight of the cross-entropy of the synthetic images, at least 0.
        ce_network: the ``same`` network as that of the means, or the ``last`` one of its training run.
        ce_by_accuracy: whether the accuracy of that network in percent multiplies ``ce_weight``.
    """

    gradient_scale = "feature"
    one_class = True

    def __init__(
        self,
        real_batch: Count = 256,
        class_chunk: Count | None = None,
        pair_weight: Share = 0.0,
        ce_weight: Weight = 0.0,
        ce_network: Literal["same", "last"] = "same",
        ce_by_accuracy: bool = False,
    ) -> None:
        self.real_batch = real_batch
        self.class_chunk = class_chunk
        self.pair_weight = pair_weight
        self.ce_weight = ce_weight
        if ce_network not in ("same", "last"):
            raise unknown_name("network of the cross-entropy", ce_network, ("same", "last"))
        self.last = bool(ce_weight) and ce_network == "last"
        self.by_accuracy = bool(ce_weight) and ce_by_accuracy

    def setup(self, context: Context, synthesizer: Synthesizer) -> None:
        """Choose the chunk."""
        super().setup(context, synthesizer)
        if "labels" in synthesizer.parameter_groups() and not self.ce_weight:
            raise ConfigError(
                "distribution matching does not look at labels, so learned labels would never change: "
                "use synthesis.labels=hard or soft, objective.ce_weight above 0, or the gradient objective"
            )
        if self.pair_weight:
            context.signal.require("images_at")
        if self.pair_weight and context.steps and context.init not in synthesizer.pairing_inits:
            raise self._without_pairs(synthesizer)
        if self.by_accuracy:
            context.signal.require("accuracy")
        if self.last and type(context.networks).last is NetworkSource.last:
            raise context.networks.without_a_last()
        self.chunk = chunk_of_classes(context, synthesizer, self.class_chunk)

    def passes_per_step(self, synthesizer: Synthesizer) -> float:
        """One forward pass per real image, forward and backward per synthetic one; more of them for the extra terms."""
        synthetic = 3.0 + (1.0 if self.pair_weight else 0.0) + (3.0 if self.last else 0.0)
        real = self.real_shown + (_JUDGED if self.by_accuracy else 0)
        return (real + synthetic * synthesizer.batch_per_class) * synthesizer.num_classes

    def backward(self, synthesizer: Synthesizer) -> dict[str, float]:
        """Draw a network and augmentations, accumulate the gradient of the loss chunk by chunk."""
        context = self.context
        if self.pair_weight and bool((synthesizer.pairs < 0).any()):
            raise self._without_pairs(synthesizer)
        network = context.networks.current()
        network.module.requires_grad_(False)
        classes = torch.arange(context.num_classes)
        draws = self.draws(classes)
        distance, total = self._distance(network, classes, draws), 0.0
        weight = 0.0 if self.last else self._weight(network)
        side = SyntheticSide(synthesizer, context.augmentation, draws, context.streams("synthetic"))
        for chosen in classes.split(self.chunk):
            loss = self._chunk_loss(network, side, chosen, distance, weight)
            total += accumulate(loss, synthesizer)
        if self.last:
            total += self._under_the_last(side, classes)
        return {"loss": total}

    def _distance(self, network: Network, classes: Tensor, draws: Draws) -> Distance:
        """Ask the real side about the network of this step and return how far synthetic features are from it."""
        means = self.context.signal.feature_means(network, classes, draws)

        def distance(features: Tensor, group: Tensor, chosen: Tensor) -> Tensor:
            return (means[chosen.to(means.device)] - class_means(features, group, chosen)).square().sum()

        return distance

    def _view(self, features: Tensor) -> Tensor:
        """Return the features (N, D) as they are compared."""
        return features

    def _under_the_last(self, side: SyntheticSide, classes: Tensor) -> float:
        context, total = self.context, 0.0
        network = context.networks.last()
        network.module.requires_grad_(False)
        weight = self._weight(network)
        side.draws = context.augmentation.draw(len(classes), context.streams("ce-augmentation"))
        for chosen in classes.split(self.chunk):
            seen = side.batch(chosen)
            loss = self._cross_entropy(network.logits(seen.images), seen, chosen, weight)
            total += accumulate(loss, side.synthesizer)
        return total

    def _weight(self, network: Network) -> float:
        """Return the weight of the cross-entropy under ``network``."""
        if not self.by_accuracy:
            return self.ce_weight
        return self.ce_weight * 100 * self.context.signal.accuracy(network, _JUDGED, "ce-accuracy")

    def _cross_entropy(self, logits: Tensor, seen: SyntheticBatch, classes: Tensor, weight: float) -> Tensor:
        """Return the weighted share that these classes have in the mean cross-entropy of all images."""
        # Classes have equally many images here, so this share makes the sum over chunks the mean over all.
        share = len(classes) / (len(seen.group) * self.context.num_classes)
        return weight * share * F.cross_entropy(logits, seen.targets.to(logits.device), reduction="sum")

    def _without_pairs(self, synthesizer: Synthesizer) -> ConfigError:
        remedy = "".join(f"use init={init}, or " for init in synthesizer.pairing_inits)
        return ConfigError(
            f"objective.pair_weight={self.pair_weight} needs synthetic images that each started from one real image: "
            f"{remedy}set it to 0"
        )

    def _chunk_loss(
        self, network: Network, side: SyntheticSide, classes: Tensor, distance: Distance, weight: float
    ) -> Tensor:
        seen = side.batch(classes)
        if weight:
            features, logits = network.features_and_logits(seen.images)
        else:
            features = network.features(seen.images)
        features = self._view(features)
        loss = distance(features, seen.group, classes)
        if self.pair_weight:
            distances = self._pair_distances(
                network, features, side.synthesizer.pairs[seen.index], side.draws, seen.group
            )
            pairing = class_means(distances[:, None], seen.group, classes).sum()
            loss = (1 - self.pair_weight) * loss + self.pair_weight * pairing
        if weight:
            loss = loss + self._cross_entropy(logits, seen, classes, weight)
        return loss

    def _pair_distances(self, network: Network, features: Tensor, pairs: Tensor, draws: Draws, group: Tensor) -> Tensor:
        """Return the squared distance (N,) of each image's features to those of its real partner."""
        partners = self.context.signal.images_at(pairs.cpu())
        with torch.no_grad():
            wanted = self._view(network.features(self.context.augmentation.apply(partners, draws, group)))
        return (features - wanted).square().sum(1)
