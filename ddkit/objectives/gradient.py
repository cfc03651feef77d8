"""Gradient matching: gradients of real and synthetic classes on the same network."""

from __future__ import annotations

import torch
from torch import Tensor

from ddkit.augment import Draws
from ddkit.errors import ConfigError
from ddkit.networks import Network
from ddkit.objectives.base import Context, Objective, registry
from ddkit.objectives.class_gradients import class_gradients, default_class_chunk
from ddkit.objectives.distances import Metric, check_metric, gradient_distance, uses_vectors_only
from ddkit.synthesis import Synthesizer


@registry.register("gradient")
class GradientMatching(Objective):
    r"""Match the gradient of every class (Zhao, Mopuri and Bilen 2021, ICLR; survey Eqs. 21 to 24, 26).

    .. math::
        L(S) = \sum_c D\big(\nabla_\theta \mathrm{CE}(A_{\omega_c}(S_c), \theta),\;
                            \nabla_\theta \mathrm{CE}(A_{\omega_c}(B_c), \theta)\big)

    with :math:`B_c` a fresh batch of real images of class c and :math:`D` of
    :func:`ddkit.objectives.distances.gradient_distance`. With a Siamese augmentation :math:`A` this is DSA
    (Zhao and Bilen 2021, ICML; survey Eq. 28). Distances and everything that is differentiated twice run eagerly in
    float32; the real gradients follow the run's precision where classes are differentiated one at a time.

    Args:
        metric: ``ours``, ``angle+magnitude``, ``mse`` or ``cos``. Learning rates of the presets belong to ``ours``.
        magnitude_weight: of the second term of ``angle+magnitude`` (1 in the survey).
        real_batch: real images per class and step (all of a smaller class).
        class_chunk: classes differentiated together; None chooses by activation size.
    """

    def __init__(
        self,
        metric: Metric = "ours",
        magnitude_weight: float = 1.0,
        real_batch: int = 256,
        class_chunk: int | None = None,
    ) -> None:
        check_metric(metric)
        if real_batch < 1:
            raise ConfigError(f"objective.real_batch={real_batch} must be at least 1")
        if class_chunk is not None and class_chunk < 1:
            raise ConfigError(f"objective.class_chunk={class_chunk} must be at least 1")
        self.metric: Metric = metric
        self.magnitude_weight = magnitude_weight
        self.real_batch = real_batch
        self.class_chunk = class_chunk

    def setup(self, context: Context, synthesizer: Synthesizer) -> None:
        """Choose the weights to differentiate and the chunks of both sides."""
        super().setup(context, synthesizer)
        vectors_only = uses_vectors_only(self.metric)
        self.names = [n for n, p in context.network.module.named_parameters() if p.dim() >= 2 or not vectors_only]
        classes = context.num_classes
        self.chunk = self.class_chunk or default_class_chunk(context.network, synthesizer.decoded_per_class, classes)
        self.real_chunk = self.class_chunk or default_class_chunk(context.network, self.real_batch, classes)

    def passes_per_step(self, synthesizer: Synthesizer) -> float:
        """Forward and backward per real image, and a double backward (about 2.5 times that) per synthetic one."""
        return 3.0 * self.real_batch * synthesizer.num_classes + 7.5 * len(synthesizer)

    def backward(self, synthesizer: Synthesizer) -> dict[str, float]:
        """Take the network of this step, accumulate the gradient of the loss chunk by chunk."""
        context = self.context
        network = context.networks.current()
        network.module.requires_grad_(True)
        context.signal.refresh_statistics(network)
        classes = torch.arange(context.num_classes)
        draws = context.augmentation.draw(context.num_classes, context.streams("augmentation"))
        real = context.signal.gradients(network, classes, draws, self.names, self.real_chunk)
        total = 0.0
        for chosen in classes.split(self.chunk):
            loss = self._chunk_loss(network, synthesizer, chosen, draws, [g[chosen.to(g.device)] for g in real])
            torch.autograd.backward(loss, inputs=synthesizer.learnable())
            total += float(loss.detach())
        return {"loss": total}

    def _chunk_loss(
        self, network: Network, synthesizer: Synthesizer, classes: Tensor, draws: Draws, real: list[Tensor]
    ) -> Tensor:
        index = synthesizer.batch_index(classes, self.context.streams("synthetic")).to(synthesizer.classes.device)
        images, targets = synthesizer(index)
        group = synthesizer.classes[index].cpu()
        images = self.context.augmentation.apply(images, draws, group)
        sizes = [int((group == c).sum()) for c in classes]
        synthetic = class_gradients(network, images.split(sizes), targets.split(sizes), self.names, differentiable=True)
        return gradient_distance(synthetic, real, self.metric, self.magnitude_weight).sum()
