"""Gradient matching: gradients of real and synthetic data on the same network, by class or for the whole batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ddkit.base.ranges import Count, Weight, Whole
from ddkit.errors import ConfigError, unknown_name
from ddkit.networks.class_gradients import class_gradients, default_class_chunk
from ddkit.networks.network import Network
from ddkit.objectives.base import Context, Objective, accumulate, registry
from ddkit.objectives.batch_gradients import memory_class_chunk, summed_gradient
from ddkit.objectives.distances import Metric, Weights, check_metric, gradient_distance, matched_names
from ddkit.objectives.synthetic import SyntheticSide
from ddkit.synthesis.base import Synthesizer

Level = Literal["class", "batch", "both"]
LEVELS: tuple[str, ...] = ("class", "batch", "both")


@registry.register("gradient")
class GradientMatching(Objective):
    r"""Match gradients (Zhao, Mopuri and Bilen 2021, ICLR; survey Eqs. 21 to 26).

    With :math:`g_c(X) = \nabla_\theta \mathrm{CE}(A_{\omega_c}(X_c), \theta)` the gradient of class c, :math:`B_c` a
    fresh batch of its real images and :math:`D` of :func:`ddkit.objectives.distances.gradient_distance`:

    .. math::
        L_\text{class}(S) = \sum_c D\big(g_c(S), g_c(B)\big), \qquad
        L_\text{batch}(S) = D\Big(\frac1K \sum_c g_c(S),\; \frac1K \sum_c g_c(B)\Big)

    ``level=class`` is DC (survey Eq. 24) and, with a Siamese augmentation :math:`A`, DSA (Zhao and Bilen 2021, ICML;
    survey Eq. 28). ``level=batch`` is DCC (Lee et al. 2022, ICML; survey Eq. 25): what all classes share cancels, what
    separates them is left. ``level=both`` is :math:`L_\text{class} + L_\text{batch}` (Jiang et al. 2022, with
    ``metric=angle+magnitude``; their adaptive number of inner steps is not part of it). The survey prints the sum over
    classes where DCC's program, and ddkit, take the mean; the cosines differ by their epsilon only, the magnitude term
    by a factor of K.

    A warm-up uses the class level alone as long as the network is both one of the first ``warmup_networks`` and in one
    of its first ``warmup_steps`` outer steps (DCC's bi-level warm-up); the scalar ``batch`` then says which one a step
    used, as their losses do not compare.

    The batch level couples all classes. Where the graph of all of them fits in memory it is one pass that is
    differentiated twice. Otherwise the gradient is found exactly in two: the first accumulates the mean gradient g,
    the second differentiates :math:`\langle \partial D/\partial g,\; g_\text{chunk}\rangle` chunk by chunk, so that
    memory is that of one chunk for one more first-order pass.

    Distances and everything of the synthetic side run eagerly in float32. The real gradients follow the run's
    precision at the batch level, and at the others where classes are differentiated one at a time.

    Args:
        metric: ``ours``, ``angle+magnitude``, ``mse``, ``cos``, ``l1`` or ``l1_mean``. Learning rates of the presets
            belong to the metric of the preset.
        magnitude_weight: of the second term of ``angle+magnitude`` (1 in the survey).
        real_batch: real images per class and step (all of a smaller class).
        class_chunk: classes differentiated together; None chooses by activation size and, at the batch level, memory.
        weights: which weights are matched: ``auto`` (those that the metric looks at), ``all``, ``matrices`` or
            ``convolutions``, see :func:`ddkit.objectives.distances.matched_names`.
        level: ``class``, ``batch`` or ``both``.
        warmup_networks: networks with a warm-up; a number below 1 is a share of the run's networks, 0 is none.
        warmup_steps: outer steps of such a network that belong to it; 0 for none.

    Raises:
        ConfigError: an unknown name, a value out of range, or options that would have no effect together.
    """

    gradient_scale = "gradient"

    def __init__(
        self,
        metric: Metric = "ours",
        magnitude_weight: Weight = 1.0,
        real_batch: Count = 256,
        class_chunk: Count | None = None,
        weights: Weights = "auto",
        level: Level = "class",
        warmup_networks: Weight = 0,
        warmup_steps: Whole = 0,
    ) -> None:
        check_metric(metric, weights)
        if level not in LEVELS:
            raise unknown_name("level of gradient matching", level, LEVELS)
        _check_warmup(level, warmup_networks, warmup_steps)
        self.metric: Metric = metric
        self.magnitude_weight = magnitude_weight
        self.weights: Weights = weights
        self.level: Level = level
        self.warmup_networks, self.warmup_steps = warmup_networks, warmup_steps
        self.warm_networks = int(warmup_networks)  # known at setup where it is a share
        self.real_batch = real_batch
        self.class_chunk = class_chunk

    def setup(self, context: Context, synthesizer: Synthesizer) -> None:
        """Choose the weights to differentiate, the chunks of both sides and the form of the batch level."""
        super().setup(context, synthesizer)
        network, classes = context.network, context.num_classes
        self.names = matched_names(network.module, self.metric, self.weights)
        self._check_warmup_ends()
        images = synthesizer.batch_per_class
        self.real_chunk = self.class_chunk or default_class_chunk(network, self.real_batch, classes)
        self.chunk = self.class_chunk or default_class_chunk(network, images, classes)
        self.batch_chunk = self.class_chunk or memory_class_chunk(network, images, classes)

    def _check_warmup_ends(self) -> None:
        """Refuse a run that would be over before the batch level is used once."""
        life, steps = self.context.networks.life(), self.context.steps
        if 0 < self.warmup_networks < 1:
            if life is None:
                raise ConfigError(
                    f"objective.warmup_networks={self.warmup_networks} is a share, but how many networks this source "
                    f"will draw is not known beforehand: give their number"
                )
            self.warm_networks = round(self.warmup_networks * math.ceil(steps / life))
        if life is None or not self.warm_networks or life > self.warmup_steps:
            return
        covered = self.warm_networks * life
        if 0 < steps <= covered:
            raise ConfigError(
                f"the warm-up of objective.warmup_networks={self.warmup_networks} networks with {life} outer steps "
                f"each covers all {steps} steps of the run: set it to a share of the run's networks such as 0.25, to 0 "
                f"for none, or raise steps above {covered}"
            )

    def passes_per_step(self, synthesizer: Synthesizer) -> float:
        """Forward and backward per real image; a double backward (about 2.5 times that) per synthetic one.

        The batch level in explicit chunks adds a forward and backward pass over the synthetic images. A warm-up costs
        about as much as what follows it.
        """
        classes = synthesizer.num_classes
        two_passes = self.level != "class" and (self.class_chunk or classes) < classes
        return (
            3.0 * self.real_shown * classes
            + (10.5 if two_passes else 7.5) * synthesizer.batch_per_class * synthesizer.num_classes
        )

    def backward(self, synthesizer: Synthesizer) -> dict[str, float]:
        """Take the network of this step and accumulate the gradient of the loss.

        Returns:
            ``loss``; with a warm-up also ``batch``, 1 where the batch level was used and 0 where it was not.
        """
        context = self.context
        network = context.networks.current()
        network.module.requires_grad_(True)
        context.signal.refresh_statistics(network)
        classes = torch.arange(context.num_classes)
        draws = self.draws(classes)
        side = SyntheticSide(synthesizer, context.augmentation, draws, context.streams("synthetic"))
        level = self.level_of_step()
        if level == "batch":
            mean = [g[None] for g in context.signal.mean_gradient(network, classes, draws, self.names)]
            loss = self._batch_level(network, side, mean, None)
        else:
            real = context.signal.gradients(network, classes, draws, self.names, self.real_chunk)
            if level == "class":
                loss = self._class_level(network, side, real)
            else:
                loss = self._batch_level(network, side, [g.mean(0, keepdim=True) for g in real], real)
        return {"loss": loss, "batch": float(level != "class")} if self.warm_networks else {"loss": loss}

    def level_of_step(self) -> Level:
        """Return the level at which the present network is matched: ``class`` during a warm-up, else the option's."""
        number, served = self.context.networks.age()
        return "class" if number < self.warm_networks and served < self.warmup_steps else self.level

    def _class_level(self, network: Network, side: SyntheticSide, real: list[Tensor]) -> float:
        """Classes do not influence each other, so every chunk has a backward pass of its own."""
        total = 0.0
        for chosen in side.classes.split(self.chunk):
            rows = class_gradients(network, *side.of(chosen), self.names, differentiable=True)
            loss = self._distance(rows, _of(real, chosen))
            total += accumulate(loss, side.synthesizer)
        return total

    def _batch_level(
        self, network: Network, side: SyntheticSide, real_mean: list[Tensor], real: list[Tensor] | None
    ) -> float:
        """Match the mean of the class gradients; given the class gradients of the real side, match those as well.

        Args:
            network: where.
            side: the synthetic images.
            real_mean: mean of the real class gradients, one tensor (1, ...) per weight.
            real: the real class gradients (K, ...) for ``level=both``; None for ``level=batch``.
        """
        chunk = self.batch_chunk if real is None else min(self.chunk, self.batch_chunk)
        form = self._one_pass if self.batch_chunk >= len(side.classes) else self._two_passes
        return form(network, side, side.classes.split(chunk), real_mean, real)

    def _one_pass(
        self,
        network: Network,
        side: SyntheticSide,
        chunks: Sequence[Tensor],
        real_mean: list[Tensor],
        real: list[Tensor] | None,
    ) -> float:
        """Keep the graph of all chunks until one backward pass."""
        parts = [self._rows(network, side, chosen, real) for chosen in chunks]
        rows = [torch.cat(tensors) for tensors in zip(*parts, strict=True)]
        mean = [tensor.sum(0, keepdim=True) / len(side.classes) for tensor in rows]
        loss = self._distance(mean, real_mean)
        if real is not None:
            loss = loss + self._distance(rows, real)
        return accumulate(loss, side.synthesizer)

    def _two_passes(
        self,
        network: Network,
        side: SyntheticSide,
        chunks: Sequence[Tensor],
        real_mean: list[Tensor],
        real: list[Tensor] | None,
    ) -> float:
        r"""Find the mean gradient g first, then differentiate :math:`\langle dD/dg, g_c\rangle` chunk by chunk."""
        mean = [torch.zeros_like(tensor, dtype=network.dtype, requires_grad=True) for tensor in real_mean]
        for chosen in chunks:
            with torch.no_grad():
                seen = side.of(chosen)
            sums = summed_gradient(network, *seen, self.names, differentiable=False)
            with torch.no_grad():
                torch._foreach_add_(mean, sums, alpha=1 / len(side.classes))
        loss = self._distance(mean, real_mean)
        directions = torch.autograd.grad(loss, mean)
        total = float(loss.detach())
        for chosen in chunks:
            rows = self._rows(network, side, chosen, real)
            products = [(v * r).sum() for v, r in zip(directions, rows, strict=True)]
            loss = torch.stack(products).sum() / len(side.classes)
            if real is not None:
                own = self._distance(rows, _of(real, chosen))
                loss, total = loss + own, total + float(own.detach())
            accumulate(loss, side.synthesizer)
        return total

    def _rows(self, network: Network, side: SyntheticSide, chosen: Tensor, real: list[Tensor] | None) -> list[Tensor]:
        """Return gradients of the classes ``chosen``: a row for each where ``real`` is given, else their sum."""
        gradients = summed_gradient if real is None else class_gradients
        return gradients(network, *side.of(chosen), self.names, differentiable=True)

    def _distance(self, synthetic: list[Tensor], real: list[Tensor]) -> Tensor:
        """Return the sum over rows of the distances."""
        return gradient_distance(synthetic, real, self.metric, self.magnitude_weight).sum()


def _of(gradients: list[Tensor], classes: Tensor) -> list[Tensor]:
    return [gradient[classes.to(gradient.device)] for gradient in gradients]


def _check_warmup(level: str, networks: float, steps: int) -> None:
    if networks > 1 and networks != int(networks):
        raise ConfigError(f"objective.warmup_networks={networks} must be a number of networks, or a share below 1")
    if level == "class" and networks:
        raise ConfigError(
            f"objective.warmup_networks={networks} with objective.level=class: a warm-up precedes the batch level; use "
            f"objective.level=batch or both, or leave the warm-up out"
        )
    if networks and not steps:
        raise ConfigError(
            f"objective.warmup_networks={networks} with objective.warmup_steps=0 is no warm-up: it covers the "
            f"first steps of the first networks, so give objective.warmup_steps (as many as a network serves cover it "
            f"whole), or objective.warmup_networks=0"
        )
