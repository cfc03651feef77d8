"""Meta-learning: a student trained on the synthetic set is judged on real data."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ddkit.augment.base import Draws
from ddkit.base.ranges import Count, Momentum, Rate, Whole
from ddkit.errors import DivergedError
from ddkit.networks.flat import FlatNetwork
from ddkit.networks.signal import Risk
from ddkit.objectives.base import Context, Objective, registry
from ddkit.objectives.meta_order import InnerOrder, Order
from ddkit.objectives.meta_sizes import LearnedRates, MomentumForm, RateForm, StepSizes
from ddkit.objectives.student_batches import StudentBatches
from ddkit.objectives.unrolling.base import MetaGradient, Unrolled
from ddkit.objectives.unrolling.base import registry as meta_gradients
from ddkit.objectives.unrolling.problem import InnerProblem
from ddkit.synthesis.base import Synthesizer


@registry.register("meta")
class MetaLearning(Objective):
    r"""Train a student on the synthetic set and judge it on real data (survey Eq. 6-13; Wang et al. 2018, DD).

    .. math::
        m_{t+1} = \beta_t m_t + \nabla_\theta R_{S_t}(\theta_t), \quad \theta_{t+1} = \theta_t - \eta_t m_{t+1}, \qquad
        L = \frac{1}{n} \sum_{\theta_0} \Big( R_T(\theta_N) + \sum_{t} R_T(\theta_t) \Big)

    :math:`R_{S_t}` is the mean cross-entropy of the synthetic images of step t (the survey prints the real risk in its
    Eq. 13), :math:`R_T` that of a fresh batch of real images, with hard labels. :math:`\theta_0` comes from the network
    source, which keeps its weights; n = ``students`` of them share an outer step. Images, labels, rates and momenta are
    learned, as the synthesizer and the options below say. Soft labels need not be probabilities: the cross-entropy is
    :math:`-\sum_c Y_c \log p_c`, under which the sum of a row is a step size of its own.

    The augmentation is drawn once per outer step: all inner batches and the real images share its parameters.

    Every needed image is decoded once, see :class:`~ddkit.objectives.student_batches.StudentBatches`. Passes are
    float32, see :class:`~ddkit.objectives.unrolling.FlatNetwork`. With ``order=fixed`` a result is to be trained on as
    it was learned: its recipe carries order, rates and momenta, and the seed of ``networks=fixed``.

    Args:
        inner_steps: N, steps of the student.
        order: ``fixed``, ``random`` or ``shuffled``, see :class:`~ddkit.objectives.meta_order.InnerOrder`.
        batch_per_class: images of each class that has any, per inner step, for the first two; None chooses itself.
        batches: into how many batches ``fixed`` cuts the images, instead of ``batch_per_class``; the largest divisor up
            to it where it does not divide them.
        batch_syn: images per inner step of ``shuffled``; None for all.
        lr: initial :math:`\eta`.
        learn_lr: ``none``, ``shared`` or ``per_step``, by the optimiser's settings for group ``inner``.
        momentum: initial :math:`\beta`; 0 for plain gradient descent.
        learn_momentum: whether momenta are learned, per step where rates are.
        rate_form: ``softplus`` (DD) or ``exp`` (GTN) of a free number.
        momentum_form: ``sigmoid``, or ``exp`` as GTN has it, under which momenta above 1 appear.
        real_images: size of a real batch, all classes together; all of a smaller set.
        balanced: whether classes share it equally (``real_images`` / K rounded, at least one of each).
        intermediate_every: q, a loss on a fresh real batch after every q inner steps but the last (GTN); 0 for none.
            These losses are summed and not averaged.
        window: how many of the last inner steps are differentiated; None for all. Shorter ones are cheaper and biased,
            and intermediate losses before them are left out.
        students: n, initial weights per outer step, whose gradients are averaged.
        meta_gradient: ``adjoint`` (exact, the graph of one step), ``checkpointed`` (the same, for many steps), ``full``
            (exact, the graph of all steps), ``auto`` (``full`` or ``adjoint``, the faster one that fits) or ``tesla``
            (truncated), see :mod:`ddkit.objectives.unrolling`.
    """

    gradient_scale = "risk"
    every_class: ClassVar[bool] = False
    group_defaults: ClassVar[dict[str, dict[str, Any]]] = {
        "inner": {"name": "adam", "lr": 0.01, "betas": (0.5, 0.999)},
    }

    def __init__(
        self,
        inner_steps: Count = 30,
        order: Order = "fixed",
        batch_per_class: Count | None = None,
        batches: Count | None = None,
        batch_syn: Count | None = None,
        lr: Rate = 0.02,
        learn_lr: LearnedRates = "per_step",
        momentum: Momentum = 0.0,
        learn_momentum: bool = False,
        rate_form: RateForm = "softplus",
        momentum_form: MomentumForm = "sigmoid",
        real_images: Count = 1024,
        balanced: bool = False,
        intermediate_every: Whole = 0,
        window: Count | None = None,
        students: Count = 1,
        meta_gradient: str = "auto",
    ) -> None:
        self.inner_steps, self.real_images, self.balanced = inner_steps, real_images, balanced
        self.judged = range(intermediate_every, inner_steps, intermediate_every) if intermediate_every else range(0)
        self.window, self.students = window, students
        self.order = InnerOrder(order, inner_steps, batch_per_class, batch_syn, batches)
        self.sizes = StepSizes(inner_steps, lr, learn_lr, rate_form, momentum, learn_momentum, momentum_form)
        self.rates = f"objective.lr (now {lr:g}) or "
        self.meta_gradient: MetaGradient = meta_gradients.get(meta_gradient)()
        self.meta_gradient.check(momentum=momentum > 0, intermediate=bool(self.judged), window=window is not None)

    def setup(self, context: Context, synthesizer: Synthesizer) -> None:
        """Make the network a function of flat weights and create what is learned beside the synthetic data."""
        super().setup(context, synthesizer)
        context.signal.require("risk")
        self.flat = FlatNetwork(context.network)
        self.order.check(synthesizer)
        steps = min(self.inner_steps, self.window or self.inner_steps)
        images = steps * self.order.batch_size(synthesizer)
        self.meta_gradient = self.meta_gradient.suited(context.network, images)
        self.runs = self.order.runs(synthesizer) if self.order.order == "fixed" else None
        self.present = len(synthesizer) // synthesizer.decoded_per_class
        self.sizes.create(context.network.device, context.network.dtype)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return the free numbers behind rates and momenta as ``inner``, where they are learned."""
        raw = list(self.sizes.raw.values())
        return {"inner": raw} if raw else {}

    def passes_per_step(self, synthesizer: Synthesizer) -> float:
        """Forward and double backward per differentiated inner step, forward and backward per other and real image."""
        window = min(self.inner_steps, self.window or self.inner_steps)
        before = self.inner_steps - window
        inner = (self.meta_gradient.passes * window + 3.0 * before) * self.order.batch_size(synthesizer)
        judgements = 1 + sum(number > before for number in self.judged)
        return self.students * (inner + 3.0 * self.real_images * judgements)

    def backward(self, synthesizer: Synthesizer) -> dict[str, float]:
        """Unroll students and accumulate the mean of their gradients.

        Returns:
            ``loss`` (intermediate losses included), ``error`` (share of real images that students get wrong at their
            end), ``lr`` (mean rate of the inner steps), and ``mu`` (mean momentum) where there is one.

        Raises:
            DivergedError: a student's risk is not finite.
        """
        context, streams = self.context, self.context.streams
        draws = context.augmentation.draw(1, streams("augmentation"))
        chunks = self.order.batches(synthesizer, streams("student-batches"))
        shared = [draws.select(torch.zeros(len(chunk), dtype=torch.int64)) for chunk in chunks]
        student = StudentBatches(synthesizer, context.augmentation, context.network, chunks, shared)
        loss, error = 0.0, 0.0
        for _ in range(self.students):
            network = context.networks.current()
            start = torch.cat([weight.detach().flatten() for weight in network.module.parameters()])
            result, risk = self._unroll(start, student, draws)
            context.networks.observe(result.first_gradient, images=len(chunks[0]), error=float(risk.error))
            loss, error = loss + float(result.loss), error + float(risk.error) / self.students
        self._check_loss(loss)
        student.finish(synthesizer)
        rates, momenta = self.sizes.listed()
        scalars = {"loss": loss, "error": error, "lr": sum(rates) / len(rates)}
        return {**scalars, "mu": sum(momenta) / len(momenta)} if momenta else scalars

    def _unroll(self, start: Tensor, student: StudentBatches, draws: Draws) -> tuple[Unrolled, Risk]:
        """Unroll one student and accumulate its share of the gradient; return its outcome and its last risk."""
        seen: list[Risk] = []
        share = 1 / self.students

        def risk(theta: Tensor) -> tuple[Tensor, Tensor]:
            found = self.context.signal.risk(
                self.flat, theta, self.real_images, balanced=self.balanced, draws=draws, stream="real"
            )
            seen.append(found)
            return share * found.loss, share * found.gradient

        problem = InnerProblem(
            loss=self.flat.loss,
            start=start,
            batches=student.batches,
            rate=self.sizes.rates(),
            terminal=risk,
            momentum=self.sizes.momenta(),
            intermediate=dict.fromkeys(self.judged, risk),
            window=self.window,
        )
        result = self.meta_gradient.backward(problem)
        return result, seen[0]  # the last step is judged first

    def _check_loss(self, loss: float) -> None:
        if not math.isfinite(loss):
            rates, _ = self.sizes.listed()
            raise DivergedError(
                f"the student diverged, its loss on real data is {loss}, with learning rates from {min(rates):.4g} to "
                f"{max(rates):.4g} over {self.inner_steps} inner steps: lower objective.lr or the learning rates of "
                f"images and inner in optimiser.groups"
            )

    def after_step(self, synthesizer: Synthesizer) -> None:
        """Stop at rates out of range, warn of momenta of 1 or more."""
        self.sizes.check()

    def recipe_changes(self) -> dict[str, Any]:
        """Return how to train on the result as it was learned: the given steps, or a learned common rate."""
        rates, momenta = self.sizes.listed()
        if self.runs is None:
            return {"lr": rates[0]} if self.sizes.learn_lr and not self.sizes.per_step else {}
        changes = {"schedule": "given", "milestones": [], "rates": rates, "momenta": momenta, "runs": self.runs}
        if self.present < self.context.num_classes:
            changes["classes"] = self.present
        if (seed := self.context.networks.known_start) is not None:
            changes["start"] = seed
        return changes

    def metadata(self) -> dict[str, Any]:
        """Return number and order of the inner steps with their first and last rate and momentum."""
        rates, momenta = self.sizes.listed()
        card: dict[str, Any] = {"steps": self.inner_steps, "order": self.order.order, "rates": [rates[0], rates[-1]]}
        if momenta:
            card["momenta"] = [momenta[0], momenta[-1]]
        return {"inner": card}

    def state_dict(self) -> dict[str, Any]:
        """Return what was learned beside the synthetic data."""
        return self.sizes.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with saved rates and momenta."""
        self.sizes.load_state_dict(state)
