"""Kernel regression: the synthetic set is judged by the ridge regression that it defines, in closed form."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ddkit.base.ranges import Count, Weight
from ddkit.errors import ConfigError
from ddkit.models.kernels.base import Kernel, create
from ddkit.models.kernels.classifier import regression_rows, with_mirrored
from ddkit.models.kernels.label_solve import solve_labels
from ddkit.networks.sources import registry as sources
from ddkit.objectives.base import Context, Objective, registry
from ddkit.objectives.kernel_losses import KernelLoss, label_margin, record_losses, require_loss, target_loss
from ddkit.synthesis.base import Synthesizer
from ddkit.synthesis.labels import FreeLabels


@runtime_checkable
class KernelSource(Protocol):
    """A network source that has a kernel."""

    def kernel(self) -> Kernel:
        """Return the kernel of this outer step; valid once the source is set up."""
        ...


@registry.register("kernel")
class KernelRegression(Objective):
    r"""Minimise the error of kernel ridge regression, trained on the synthetic set, on real images (survey Eq. 14-15).

    .. math::
        \hat y_t = K_{ts} \big(K_{ss} + \lambda \tfrac{\mathrm{tr} K_{ss}}{n} I\big)^{-1} y_s, \qquad
        L(S) = \frac{1}{B} \sum_t \ell(\hat y_t, y_t)

    The inner training is solved in closed form, so nothing is unrolled. The network source decides about the kernel:
    ``infinite`` (KIP, Nguyen et al. 2021), ``random-features`` (RFAD, Loo et al. 2022) or ``online-pool`` (FRePo, Zhou
    et al. 2022). Gradients flow through the synthetic side alone, into K_ss and K_ts.

    Targets go through in chunks: the coefficients :math:`B = A^{-1} y_s` are cut off as a leaf, every chunk adds to the
    gradients of that leaf and of the support, then B is differentiated once and the support after it. The result is
    that of one graph over all targets, at the memory of one chunk. Kernels are evaluated in the format of the images,
    the system is solved in float64: on MNIST with one hidden layer the accuracy is that of all-float64 at less than
    half the time.

    Real images are used as they are, under the run's augmentation with parameters per image if it has one.

    With ``per_record`` the targets enter through the mean of one gradient per record, which a private signal clips and
    noises (DP-KIP, Vinaroz and Park 2023, arXiv 2301.13389). The step is the same, at a higher cost; loss and accuracy
    would be further looks at the real images, so the scalar ``loss`` is the inner product of gradient and support
    instead (a diagnostic without an optimum).

    Args:
        real_images: real targets per step; under ``balanced`` rounded down to equally many per class.
        balanced: whether classes have equally many targets (KIP); otherwise they are drawn uniformly.
        chunk: most targets that are differentiated together; large kernels take fewer.
        regulariser: :math:`\lambda`, relative to the mean diagonal of K_ss.
        loss: ``mse``, ``sum`` or ``platt``, see :func:`~ddkit.objectives.kernel_losses.target_loss`. Under ``platt``
            the logarithm k of the inverse temperature is learned as group ``temperature``, from 0; the group exists
            under every loss, so that settings for it are never out of place, and gets no gradient under the others.
        margin: weight of :func:`~ddkit.objectives.kernel_losses.label_margin`; needs learned labels.
        flip: whether every synthetic image comes with its mirror image.
        label_solve: whether the result has the labels that fit ``real_images`` real images best (KIP's label solve, see
            :func:`~ddkit.models.kernels.solve_labels`); needs labels=centred or labels=free. The run goes on with its
            own.
        per_record: whether targets enter as the mean of gradients of single records, drawn uniformly; excludes
            ``balanced``, ``loss=platt`` and ``label_solve``, which look at the real images in another way.
    """

    gradient_scale = "regression"
    needs_networks: ClassVar[str | None] = "infinite"
    every_class: ClassVar[bool] = False
    needs_finite_networks: ClassVar[bool] = False
    row_loss = "mse"
    rates = "optimiser.groups.temperature.lr (if learned), "
    group_defaults: ClassVar[dict[str, dict[str, Any]]] = {"temperature": {"name": "adam", "lr": 0.01}}

    def __init__(
        self,
        real_images: Count = 5000,
        balanced: bool = True,
        chunk: Count = 512,
        regulariser: Weight = 1e-6,
        loss: KernelLoss = "mse",
        margin: Weight = 0.0,
        flip: bool = False,
        label_solve: bool = False,
        per_record: bool = False,
    ) -> None:
        require_loss(loss)
        self.real_images, self.balanced, self.chunk = real_images, balanced, chunk
        self.regulariser, self.loss, self.margin = float(regulariser), loss, float(margin)
        if per_record and (balanced or loss == "platt" or label_solve):
            raise ConfigError(
                f"objective.per_record asks for nothing but gradients of single records drawn uniformly: use "
                f"objective.balanced=false (now {balanced}), objective.loss=mse or sum (now {loss}) and "
                f"objective.label_solve=false"
            )
        self.flip, self.label_solve, self.per_record = flip, label_solve, per_record
        self.log_scale = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.judge: Kernel | None = None
        self.description: dict[str, Any] = {}

    def setup(self, context: Context, synthesizer: Synthesizer) -> None:
        """Require a source with a kernel."""
        super().setup(context, synthesizer)
        if not isinstance(context.networks, KernelSource):
            choices = [name for name in sources if hasattr(sources.get(name), "kernel")]
            raise ConfigError(
                f"kernel regression needs networks with a kernel, which {type(context.networks).__name__} does not "
                f"have: choose networks={', '.join(choices)}"
            )
        query = "balanced" if self.balanced else "labelled"
        context.signal.require("record_mean" if self.per_record else query)
        if self.margin and "labels" not in synthesizer.parameter_groups():
            raise ConfigError(
                f"objective.margin={self.margin} acts on learned labels: use synthesis.labels=centred, or "
                f"objective.margin=0"
            )
        self.source: KernelSource = context.networks
        self.description = {}
        self.judge = self._solving_kernel(context, synthesizer) if self.label_solve else None
        self.log_scale = nn.Parameter(torch.zeros((), dtype=torch.float64, device=context.network.device))

    def _solving_kernel(self, context: Context, synthesizer: Synthesizer) -> Kernel:
        """Return the kernel for which the labels of the result are solved: the one with which it is judged."""
        if type(synthesizer.labels) is not FreeLabels:
            raise ConfigError("objective.label_solve makes free rows: use synthesis.labels=centred, or free")
        if self.flip:
            raise ConfigError("objective.label_solve and objective.flip do not go together: set one of them to false")
        if len(synthesizer) > self.real_images:
            raise ConfigError(
                f"objective.label_solve: the labels of {len(synthesizer)} images need at least as many real ones, so "
                f"raise objective.real_images={self.real_images}"
            )
        network = context.network
        return create(self.source.kernel().describe(), network.shape, network.num_classes, network.device)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return the logarithm of the inverse temperature."""
        return {"temperature": [self.log_scale]}

    def passes_per_step(self, synthesizer: Synthesizer) -> float:
        """Forward passes of the targets, forward (twice) and backward of the support; see ``NetworkSource.at_once``."""
        return self.real_images + 4.0 * len(synthesizer.present) * synthesizer.batch_per_class

    def backward(self, synthesizer: Synthesizer) -> dict[str, float]:
        """Regress the targets chunk by chunk, then take the collected gradients to the synthetic data."""
        self.context.networks.current()
        kernel = self.source.kernel()
        self.description = kernel.describe()
        images, rows = self._support(synthesizer)
        pair = with_mirrored(images, rows) if self.flip else (images, rows)
        represented = kernel.represent(pair[0])
        support, labels = (tensor.detach().requires_grad_(tensor.requires_grad) for tensor in (represented, pair[1]))
        fitted = kernel.fit(support, labels, self.regulariser)
        if self.per_record:
            return self._of_records(kernel, fitted, (support, represented), (labels, pair[1]), rows, synthesizer)
        coefficients = fitted.detach().requires_grad_(fitted.requires_grad)
        loss, accuracy = self._targets(kernel, support, coefficients)
        if coefficients.grad is not None:
            fitted.backward(coefficients.grad)
        roots = [(represented, support.grad), (pair[1], labels.grad)]
        if self.margin:
            margin = self.margin * label_margin(rows)
            loss += float(margin.detach())
            roots.append((margin, torch.ones_like(margin)))
        wanted = [(root, gradient) for root, gradient in roots if gradient is not None]
        torch.autograd.backward(
            [root for root, _ in wanted], [gradient for _, gradient in wanted], inputs=synthesizer.learnable()
        )
        scalars = {"loss": loss, "accuracy": accuracy}
        return {**scalars, "temperature": self._temperature()} if self.loss == "platt" else scalars

    def _of_records(
        self,
        kernel: Kernel,
        fitted: Tensor,
        support: tuple[Tensor, Tensor],
        labels: tuple[Tensor, Tensor],
        rows: Tensor,
        synthesizer: Synthesizer,
    ) -> dict[str, float]:
        """Collect the mean gradient of the leaves over single records, then take it to the synthetic data.

        Args:
            kernel: of this step.
            fitted: coefficients (n, K), with a graph to the leaves.
            support: leaf and root of the represented support.
            labels: leaf and root of the label rows.
            rows: label rows before mirroring, for the margin.
            synthesizer: receives the gradients.
        """
        pairs = [(leaf, root) for leaf, root in (support, labels) if leaf.requires_grad]
        leaves = [leaf for leaf, _ in pairs]

        def gradients(images: Tensor, classes: Tensor) -> Tensor:
            images = self.context.augmentation.train(images, self.context.streams("augmentation"))
            predicted = kernel.predict(images, support[0], fitted)
            wanted = regression_rows(classes.to(predicted.device), self.context.num_classes, "hard").to(predicted)
            losses = record_losses(self.loss, predicted, wanted)
            one_each = torch.eye(len(losses), dtype=losses.dtype, device=losses.device)
            parts = torch.autograd.grad(losses, leaves, one_each, retain_graph=True, is_grads_batched=True)
            return torch.cat([part.flatten(1) for part in parts], dim=1)

        mean = self.context.signal.record_mean(gradients, self.real_images, "real")
        parts = mean.split([leaf.numel() for leaf in leaves])
        roots = [(root, part.view(leaf.shape).to(leaf)) for (leaf, root), part in zip(pairs, parts, strict=True)]
        scalar = sum(float((root.detach() * gradient).sum()) for root, gradient in roots)
        if self.margin:
            margin = self.margin * label_margin(rows)
            roots.append((margin, torch.ones_like(margin)))
        torch.autograd.backward(
            [root for root, _ in roots], [gradient for _, gradient in roots], inputs=synthesizer.learnable()
        )
        return {"loss": scalar}

    def _support(self, synthesizer: Synthesizer) -> tuple[Tensor, Tensor]:
        """Decode the images of this step: images (n, C, H, W) and rows (n, K), with their graphs."""
        classes = torch.tensor(synthesizer.present)
        index = synthesizer.batch_index(classes, self.context.streams("synthetic"))
        images, targets = synthesizer(index.to(synthesizer.classes.device))
        rows = regression_rows(targets, synthesizer.num_classes, synthesizer.labels.artifact_kind)
        return images, rows.to(images.device)

    def _real(self, stream: str) -> tuple[Tensor, Tensor]:
        """Draw real images (B, C, H, W) and labels (B,)."""
        if not self.balanced:
            return self.context.signal.labelled(self.real_images, stream)
        return self.context.signal.balanced(max(1, self.real_images // self.context.num_classes), stream)

    def _targets(self, kernel: Kernel, support: Tensor, coefficients: Tensor) -> tuple[float, float]:
        """Add the gradients of all targets to those of the leaves; return the mean loss and the accuracy."""
        images, labels = self._real("real")
        count, num_classes = len(images), self.context.num_classes
        labels = labels.to(coefficients.device)
        rows = regression_rows(labels, num_classes, "hard").to(coefficients)
        images = self.context.augmentation.train(images, self.context.streams("augmentation"))
        parts = math.ceil(count / kernel.targets_at_once(support, self.chunk))
        size = math.ceil(count / parts)
        total = torch.zeros((), dtype=torch.float64, device=coefficients.device)
        correct = torch.zeros((), dtype=torch.int64, device=coefficients.device)
        for part, row, label in zip(images.split(size), rows.split(size), labels.split(size), strict=True):
            predicted = kernel.predict(part, support, coefficients)
            loss = target_loss(self.loss, predicted, row, label, self.log_scale) / count
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
            correct += (predicted.detach().argmax(1) == label).sum()
        return float(total), int(correct) / count

    @contextmanager
    def finishing(self, synthesizer: Synthesizer) -> Iterator[None]:
        """Hold the solved labels, where they are wanted; the real images are the same whenever it is asked."""
        labels = synthesizer.labels
        if self.judge is None or not isinstance(labels, FreeLabels):
            yield
            return
        generator = self.context.streams("label-solve")
        state, kept = generator.get_state(), labels.rows.detach().clone()
        real, classes = self._real("label-solve")
        generator.set_state(state)
        rows = regression_rows(classes, synthesizer.num_classes, "hard")
        with torch.no_grad():
            images, _ = synthesizer()
            labels.rows.copy_(solve_labels(self.judge, images, real, rows, self.regulariser))
        try:
            yield
        finally:
            with torch.no_grad():
                labels.rows.copy_(kept)

    def metadata(self) -> dict[str, Any]:
        """Return the kernel and regulariser with which the result is judged, and the learned temperature."""
        description = self.description or self.source.kernel().describe()
        card = {"describe": description, "regulariser": self.regulariser, "flip": self.flip}
        learned = {"learned": {"temperature": self._temperature()}} if self.loss == "platt" else {}
        return {"kernel": card, **learned}

    def _temperature(self) -> float:
        return math.exp(-float(self.log_scale.detach()))

    def state_dict(self) -> dict[str, Any]:
        """Return k."""
        return {"log_scale": self.log_scale.detach().cpu().clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with k."""
        with torch.no_grad():
            self.log_scale.copy_(state["log_scale"])
