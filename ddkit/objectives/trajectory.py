"""Trajectory matching: a student trained on the synthetic set has to arrive where an expert did."""

from __future__ import annotations

import math
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ddkit.base.ranges import Count, Weight
from ddkit.errors import ConfigError, DivergedError, unknown_name
from ddkit.networks.flat import FlatNetwork
from ddkit.objectives.base import Context, Objective, registry
from ddkit.objectives.expert_labels import ExpertLabels
from ddkit.objectives.student_batches import StudentBatches
from ddkit.objectives.trajectory_source import ExpertSegment, trajectories
from ddkit.objectives.unrolling.base import MetaGradient
from ddkit.objectives.unrolling.base import registry as meta_gradients
from ddkit.objectives.unrolling.problem import InnerProblem, distance_to
from ddkit.synthesis.base import Synthesizer
from ddkit.synthesis.labels import AssignedLabels

SoftLabelling = Literal["none", "per_segment", "fixed"]
SOFT_LABELS: tuple[str, ...] = ("none", "per_segment", "fixed")

#: A loss above this is worse than a student that walks away from the target by a whole segment ...
HIGH_LOSS = 2.0
#: ... and after so many steps in a row the user is told, as of a rate that stays at the lower end of its range.
HIGH_STEPS = 50


@registry.register("trajectory")
class TrajectoryMatching(Objective):
    r"""Match segments of expert trajectories (Cazenavette et al. 2022, CVPR, arXiv 2203.11932; survey Eq. 30).

    A student starts where an expert was at epoch t, takes N steps of plain gradient descent on the augmented synthetic
    images and has to arrive where the expert was M epochs later:

    .. math::
        \theta_{i+1} = \theta_i - \beta \nabla_\theta \mathrm{CE}(f_{\theta_i}(A_i(X_{b_i})), Y_{b_i}), \qquad
        L = \frac{\|\theta_N - \theta^*_{t+M}\|^2}{\|\theta^*_t - \theta^*_{t+M}\|^2}, \quad \theta_0 = \theta^*_t

    Expert and t (below ``max_start_epoch``) are drawn anew at every step, so are the batches :math:`b_i` and the
    parameters of the augmentation :math:`A_i`. The images and the student's rate :math:`\beta` are learned; soft labels
    with ``synthesis.labels=learned`` as well. A loss of 1 is that of a student that stays where it is.

    Every needed image is decoded once; the unrolling works on detached copies and one backward pass through the
    decoder follows, which is exact because the synthesizer does not change during the unroll.

    The survey describes FTD (Du et al. 2023, CVPR) as noise on the initial student weights, which is what
    ``init_noise`` does: :math:`\theta_0 = \theta^*_t + n` with :math:`\|n\| = r \|\theta^*_{t+M} - \theta^*_t\|`, the
    denominator unchanged. FTD itself has no such noise; its experts are flat.

    ``soft_labels`` is the assignment of TESLA (Cui et al. 2023, ICML). ``per_segment``: at every step the expert at
    :math:`\theta^*_{t+M}` labels the images of that step (the authors label all of them). ``fixed``: the mean over all
    experts at epoch ``max_start_epoch - 1 + expert_epochs`` labels the initial images once. Deviation: in both cases
    the result carries labels of that mean on the final images, where the authors keep those of whichever expert was
    drawn last, made before the last update.

    :math:`\beta` is kept above the lower end of ``lr_range``; a run in which it leaves the upper end stops.

    Passes are float32 whatever the run's precision, see :class:`~ddkit.objectives.unrolling.FlatNetwork`, and compiled
    in a compiled run.

    Args:
        student_steps: N, steps of the student.
        expert_epochs: M, epochs of the expert.
        max_start_epoch: t is drawn from 0 to this number, exclusive.
        batch_syn: synthetic images per student step; None for all.
        lr: initial :math:`\beta`.
        learn_lr: whether :math:`\beta` is learned, by the optimiser's settings for group ``student_lr``.
        lr_range: allowed values of :math:`\beta`.
        meta_gradient: ``adjoint`` (exact, the graph of one step), ``full`` (exact, the graph of all steps), ``auto``
            (the faster one of these that fits) or ``tesla`` (truncated, as published), see
            :mod:`ddkit.objectives.unrolling`.
        init_noise: r, relative size of the noise on the initial student weights.
        soft_labels: ``none``, ``per_segment`` or ``fixed``; the latter two need ``synthesis.labels=assigned``.
    """

    gradient_scale = "trajectory"
    needs_networks: ClassVar[str | None] = "experts"
    assigns_labels: ClassVar[bool] = True
    group_defaults: ClassVar[dict[str, dict[str, Any]]] = {"student_lr": {"name": "sgd", "lr": 1e-5, "momentum": 0.5}}

    def __init__(
        self,
        student_steps: Count = 20,
        expert_epochs: Count = 2,
        max_start_epoch: Count = 2,
        batch_syn: Count | None = None,
        lr: float = 0.01,
        learn_lr: bool = True,
        lr_range: tuple[float, float] = (1e-6, 100.0),
        meta_gradient: str = "auto",
        init_noise: Weight = 0.0,
        soft_labels: SoftLabelling = "none",
    ) -> None:
        lowest, highest = lr_range
        if not 0 < lowest <= highest < math.inf:
            raise ConfigError(f"objective.lr_range={[lowest, highest]} must be two positive numbers, the smaller first")
        if not lowest <= lr <= highest:
            raise ConfigError(f"objective.lr={lr} must lie in objective.lr_range={[lowest, highest]}")
        if soft_labels not in SOFT_LABELS:
            raise unknown_name("soft labels of trajectory matching", soft_labels, SOFT_LABELS)
        self.student_steps, self.expert_epochs = student_steps, expert_epochs
        self.max_start_epoch, self.batch_syn = max_start_epoch, batch_syn
        self.lr, self.learn_lr, self.lr_range = lr, learn_lr, (lowest, highest)
        self.rates = f"objective.lr (now {lr:g}) or "
        self.meta_gradient: MetaGradient = meta_gradients.get(meta_gradient)()
        self.init_noise, self.soft_labels = init_noise, soft_labels

    @property
    def last_epoch(self) -> int:
        """The latest checkpoint that is read."""
        return self.max_start_epoch - 1 + self.expert_epochs

    def setup(self, context: Context, synthesizer: Synthesizer) -> None:
        """Make the network a function of flat weights and create the student's rate."""
        super().setup(context, synthesizer)
        self.epoch = 0  # of the present segment
        self.high, self.warned, self.stuck, self.labelled = 0, False, 0, False
        network = context.network
        self.source = trajectories(context.networks)
        self.flat = FlatNetwork(network)
        self.source.require_epochs(self.last_epoch)
        seen = self.student_steps * self._batch_size(synthesizer)
        self.meta_gradient = self.meta_gradient.suited(network, seen)
        self.experts = None
        if self.soft_labels != "none":
            self.experts = ExpertLabels(self.flat, network, self.source, self.last_epoch, synthesizer)
        elif isinstance(synthesizer.labels, AssignedLabels):
            raise ConfigError(
                "synthesis.labels=assigned with objective.soft_labels=none: nothing would assign them; use "
                "objective.soft_labels=per_segment or fixed, or other labels"
            )
        rate = torch.tensor(self.lr, device=network.device, dtype=network.dtype)
        self.rate = nn.Parameter(rate, requires_grad=self.learn_lr)

    def _batch_size(self, synthesizer: Synthesizer) -> int:
        """Return the images of one student step; the synthesizer refuses a size that it does not have."""
        return len(synthesizer.inner_batches(1, self.batch_syn, torch.Generator())[0])

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return the student's rate as ``student_lr``, if it is learned."""
        return {"student_lr": [self.rate]} if self.learn_lr else {}

    def passes_per_step(self, synthesizer: Synthesizer) -> float:
        """Forward and double backward per student step; a forward pass per image for labels of every segment.

        Labels of ``fixed`` and those of the result are not made in every step and do not count.
        """
        seen = self.student_steps * self._batch_size(synthesizer)
        labelling = min(len(synthesizer), seen) if self.soft_labels == "per_segment" else 0
        return self.meta_gradient.passes * seen + labelling

    def backward(self, synthesizer: Synthesizer) -> dict[str, float]:
        """Draw a segment, unroll a student on it and accumulate the gradients.

        Returns:
            ``loss``, ``student_lr``, ``epoch`` (t of the segment) and ``end_distance``
            (:math:`\\|\\theta_N - \\theta^*_{t+M}\\|`).

        Raises:
            DivergedError: the student does not arrive at finite weights.
        """
        context, network, streams = self.context, self.context.network, self.context.streams
        if self.soft_labels == "fixed" and self.experts is not None and not self.labelled:
            self.experts.label_all(synthesizer)
            self.labelled = True
        segment = self.source.segment(self.max_start_epoch, self.expert_epochs)
        self.epoch = segment.epoch
        start, target = (weights.to(network.device, network.dtype) for weights in (segment.start, segment.target))
        chunks = synthesizer.inner_batches(self.student_steps, self.batch_syn, streams("student-batches"))
        draws = [context.augmentation.draw_train(len(chunk), streams("augmentation")) for chunk in chunks]
        student = StudentBatches(synthesizer, context.augmentation, network, chunks, draws)
        if self.soft_labels == "per_segment" and self.experts is not None:
            student.targets = self.experts.label(target, student.index, student.images)
        problem = InnerProblem(
            loss=self.flat.loss,
            start=start + self._noise(start, target) if self.init_noise else start,
            batches=student.batches,
            rate=self.rate,
            terminal=distance_to(target, start),
        )
        result = self.meta_gradient.backward(problem)
        loss = float(result.loss)
        self._check_loss(loss, segment)
        student.finish(synthesizer)
        return {
            "loss": loss,
            "student_lr": float(self.rate.detach()),
            "epoch": float(segment.epoch),
            "end_distance": float((result.end - target).norm()),
        }

    def _noise(self, start: Tensor, target: Tensor) -> Tensor:
        drawn = torch.randn(len(start), generator=self.context.streams("student-noise"), dtype=start.dtype)
        noise = drawn.to(start.device)
        return noise * (self.init_noise * (target - start).norm() / noise.norm())

    def _check_loss(self, loss: float, segment: ExpertSegment) -> None:
        if not math.isfinite(loss):
            raise DivergedError(
                f"the student diverged from expert {segment.expert} at epoch {segment.epoch} with a learning rate of "
                f"{float(self.rate.detach()):.4g}, loss {loss}: lower objective.lr or the learning rates of images and "
                f"student_lr in optimiser.groups"
            )
        self.high = self.high + 1 if loss > HIGH_LOSS else 0
        if self.high >= HIGH_STEPS and not self.warned:
            self.warned = True
            warnings.warn(
                f"the loss of trajectory matching was above {HIGH_LOSS:g} for {HIGH_STEPS} steps (1 is a student that "
                f"stays where it is): lower objective.lr (the student's is {float(self.rate.detach()):.4g} now) or the "
                f"learning rate of the images",
                stacklevel=2,
            )

    def after_step(self, synthesizer: Synthesizer) -> None:
        """Keep the student's rate in its range."""
        lowest, highest = self.lr_range
        rate = float(self.rate.detach())
        if not rate <= highest:
            raise DivergedError(
                f"the student's learning rate became {rate:.4g} after a segment from epoch {self.epoch}, the most is "
                f"{highest:g}: lower optimiser.groups.student_lr.lr, or set objective.learn_lr=false"
            )
        self.stuck = self.stuck + 1 if rate <= lowest else 0
        if self.stuck == HIGH_STEPS:
            warnings.warn(
                f"the student's learning rate has been at the lower end of its range, {lowest:g}, for {HIGH_STEPS} "
                f"steps: lower optimiser.groups.student_lr.lr, or set objective.learn_lr=false",
                stacklevel=2,
            )
        with torch.no_grad():
            self.rate.clamp_(min=lowest)

    def recipe_changes(self) -> dict[str, Any]:
        """Return the student's rate as the learning rate of the recipe."""
        return {"lr": float(self.rate.detach())}

    def metadata(self) -> dict[str, Any]:
        """Return, with soft labels, who made those of the result."""
        if self.experts is None:
            return {}
        return {
            "labeller": {
                "kind": "mean softmax of the experts on the final images",
                "experts": self.source.count,
                "epoch": self.last_epoch,
                "during_training": self.soft_labels,
            }
        }

    def finishing(self, synthesizer: Synthesizer) -> AbstractContextManager[None]:
        """Let the result carry labels that the mean of the experts gives to the present images."""
        return nullcontext() if self.experts is None else self.experts.final(synthesizer)

    def state_dict(self) -> dict[str, Any]:
        """Return the student's rate, whether labels were assigned, and for how long the loss has been high."""
        return {
            "rate": self.rate.detach().clone(),
            "labelled": self.labelled,
            "high": self.high,
            "warned": self.warned,
            "stuck": self.stuck,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with a saved rate."""
        with torch.no_grad():
            self.rate.copy_(state["rate"])
        self.labelled, self.high, self.warned = bool(state["labelled"]), int(state["high"]), bool(state["warned"])
        self.stuck = int(state["stuck"])
