"""Matching networks and segments from the trajectories of experts trained on real data."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddkit.base.progress import Report, silent
from ddkit.base.ranges import Count
from ddkit.base.streams import derive_seed
from ddkit.errors import CheckpointError, ConfigError, DataError
from ddkit.models.base import weights_by_name
from ddkit.networks.given_experts import require_flatness, warn_of_other_rates
from ddkit.networks.network import Network
from ddkit.networks.setting import Setting
from ddkit.networks.sources import NetworkSource, registry
from ddkit.synthesis.base import Synthesizer
from ddkit.training.experts.buffer import ExpertBuffer
from ddkit.training.experts.build import buffer_bytes, build_buffer
from ddkit.training.experts.settings import DType, ExpertSettings, augmentation_constants

#: Epochs trained where the objective reads random checkpoints and does not say how many (Cazenavette et al. 2022).
DEFAULT_EPOCHS = 50
#: Squared distance from start to target of a segment below which an expert stands still.
STILL = 1e-12


@dataclass(frozen=True)
class Segment:
    """A piece of the way of one expert.

    Args:
        start: (P,) float32, weights at ``epoch``.
        target: (P,) float32, weights some epochs later.
        expert: number of the expert.
        epoch: of the start; 0 is the initialisation.
    """

    start: Tensor
    target: Tensor
    expert: int
    epoch: int


@registry.register("experts")
class ExpertTrajectories(NetworkSource):
    """Trajectories of networks trained on real data, of which each outer step reads a segment or a checkpoint.

    The experts of Cazenavette et al. (2022, "Dataset Distillation by Matching Training Trajectories") and, with ``rho``
    above 0, the flat ones of Du et al. (2023). They come from a folder made by ``ddkit experts`` or
    :func:`ddkit.training.experts.build_buffer`, or are trained before the first step and kept in the folder of the run.

    A given buffer says itself how its experts were trained. Only what makes them flat (``rho``, ``alpha``,
    ``adaptive``) has to be what is asked for here, unless left at None. Without a buffer, options left at None take the
    defaults named below.

    Deviation: experts are drawn uniformly instead of walking through shuffled files, which has the same distribution.

    Args:
        buffer: folder of the experts; None to train them.
        count: experts to train; with a buffer the most of it that are used.
        epochs: of the training; None for as many as the objective reads, or 50 where it reads random checkpoints. With
            a buffer the last epoch that is used; None for all.
        lr: learning rate of plain SGD (0.01).
        batch_size: real images per SGD step (256).
        augmentation: strategy of the training (that of the matching); ``none`` for none.
        rho: radius of flat experts (0: plain SGD).
        alpha: see :class:`~ddkit.training.experts.ExpertSettings` (0).
        adaptive: likewise (True).
        dtype: number format in which experts are stored (float32).
    """

    def __init__(
        self,
        buffer: str | None = None,
        count: Count = 100,
        epochs: Count | None = None,
        lr: float | None = None,
        batch_size: int | None = None,
        augmentation: str | None = None,
        rho: float | None = None,
        alpha: float | None = None,
        adaptive: bool | None = None,
        dtype: DType | None = None,
    ) -> None:
        named = {"lr": lr, "batch_size": batch_size, "augmentation": augmentation, "rho": rho}
        named |= {"alpha": alpha, "adaptive": adaptive, "dtype": dtype}
        self.given: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
        ExpertSettings(**self.given)
        self.path, self.most, self.wanted = buffer, count, epochs

    def setup(self, setting: Setting) -> None:
        """Open and check a given buffer, or check that experts can be trained; nothing is trained yet."""
        super().setup(setting)
        setting.signal.require("whole")
        if self.network.has_batch_norm:
            raise ConfigError(
                f"model '{self.network.spec.canonical()}' uses batch norm: its running statistics are no part of an "
                f"expert's trajectory of weights; choose instance or group norm, such as convnet"
            )
        self.buffer: ExpertBuffer | None = None
        self._used, self._read, self._expected = self.most, 0, ""
        self._count = self.most
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if self.path is not None:
            self._take(self._checked(ExpertBuffer(Path(self.path).expanduser())))

    def _checked(self, buffer: ExpertBuffer) -> ExpertBuffer:
        """Refuse a given buffer that does not fit this run."""
        network, settings = self.network, buffer.settings
        module, spec = network.module, network.spec.canonical()
        buffer.identity.require_network(spec, network.shape, network.num_classes, module)
        buffer.identity.require_data(self.setting.signal.whole())
        if self.wanted is not None and self.wanted > buffer.epochs:
            raise self._too_few(self.wanted, buffer.epochs)
        require_flatness(settings, self.given, f"'{self.path}'")
        warn_of_other_rates(settings, self.given, f"'{self.path}'")
        return buffer

    def _take(self, buffer: ExpertBuffer) -> None:
        self.buffer, self._count = buffer, min(self._used, buffer.count)

    def _too_few(self, needed: int, epochs: int) -> ConfigError:
        return ConfigError(
            f"the experts have {epochs} epochs, but epoch {needed} is read: train experts for at least {needed} "
            f"epochs, or lower objective.max_start_epoch or objective.expert_epochs"
        )

    @property
    def count(self) -> int:
        """Number of experts that segments and checkpoints are drawn from."""
        return self._count

    @property
    def epochs(self) -> int:
        """Last epoch that may be read."""
        if self.wanted is not None:
            return self.wanted
        return self.buffer.epochs if self.buffer is not None else self._read or DEFAULT_EPOCHS

    def require_epochs(self, last: int) -> None:
        """Say that epochs up to ``last`` will be read; an objective calls it when it is set up.

        Raises:
            ConfigError: the buffer, or the option ``epochs``, has fewer.
        """
        self._read = max(self._read, last)
        if self.epochs < last:
            raise self._too_few(last, self.epochs)

    def settings(self) -> ExpertSettings:
        """Return how the experts were or will be trained."""
        if self.buffer is not None:
            return self.buffer.settings
        defaults: dict[str, Any] = {
            "model": self.network.spec.canonical(),
            "epochs": self.epochs,
            "augmentation": self.augmentation.strategy,
            "seed": derive_seed(self.streams.seed, "experts"),
        }
        if "augmentation" not in self.given:
            defaults["augmentation_options"] = augmentation_constants(self.augmentation)
        return ExpertSettings(**{**defaults, **self.given})

    def prepare(self, report: Report) -> None:
        """Train the experts that no buffer gives and that the folder of the run does not hold yet."""
        if self.buffer is not None:
            return
        if self.setting.folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="ddkit-experts-")
            folder = Path(self._temporary.name)
        else:
            folder = self.setting.folder / "experts"
        real, settings, device = self.setting.signal.whole(), self.settings(), self.network.device
        size = buffer_bytes(settings, real.shape, real.num_classes, self.most) / 1e6

        def in_words(what: str, done: int, total: int) -> None:
            report(f"{what} ({self.most} of {settings.epochs} epochs, {size:,.0f} MB in all)", done, total)

        self._take(
            build_buffer(
                real,
                folder,
                settings,
                self.most,
                device=device,
                precision=self.setting.precision,
                compile=self.setting.compile,
                progress=in_words,
            )
        )
        self._require_the_same()

    def _ready(self) -> ExpertBuffer:
        if self.buffer is None:
            self.prepare(silent)
        assert self.buffer is not None
        return self.buffer

    def weights(self, expert: int, epoch: int) -> Tensor:
        """Return the weights (P,) float32 of an expert after ``epoch`` epochs, on the device of the network.

        Raises:
            ConfigError: there is no such expert or epoch.
            ArtifactError: an expert's file was changed after it was written.
        """
        return self._ready().weights(expert, epoch).to(self.network.device)

    def segment(self, max_start: int, length: int) -> Segment:
        """Draw a segment uniformly over experts and starts t in {0, ..., max_start - 1}, from stream ``experts``.

        Args:
            max_start: number of epochs at which a segment may start.
            length: epochs from start to target.

        Raises:
            ConfigError: an epoch that the experts do not have.
            DataError: an expert that stands still over the segment.
            ArtifactError: an expert's file was changed after it was written.
        """
        if max_start < 1 or length < 1:
            raise ConfigError(f"a segment needs max_start and length of at least 1, got {max_start} and {length}")
        buffer = self._ready()
        if max_start - 1 + length > self.epochs:
            raise self._too_few(max_start - 1 + length, self.epochs)
        expert, epoch = self._draw(max_start)
        start, target = buffer.rows(expert, [epoch, epoch + length])  # still on the CPU: the check costs no wait
        if float((target - start).square().sum()) < STILL:
            raise DataError(
                f"expert {expert} does not move from epoch {epoch} to {epoch + length}, so there is nothing to match: "
                f"train experts with a higher lr (now {buffer.settings.lr:g}) or in float32"
            )
        return Segment(start.to(self.network.device), target.to(self.network.device), expert, epoch)

    def _draw(self, starts: int) -> tuple[int, int]:
        """Draw an expert and one of ``starts`` epochs."""
        drawn = int(torch.randint(self._count * starts, (1,), generator=self.streams("experts")))
        return divmod(drawn, starts)

    def current(self) -> Network:
        """Return the network with the weights of a random checkpoint, uniform over experts and epochs 0 to E."""
        self._ready()
        module, weights = self.network.module, self.weights(*self._draw(self.epochs + 1))
        with torch.no_grad():
            for name, part in weights_by_name(module, weights).items():
                module.get_parameter(name).copy_(part)
        self.drawn += 1
        return self.network

    def life(self) -> int:
        """One outer step, as a checkpoint is drawn for each."""
        return 1

    def after_step(self, synthesizer: Synthesizer, *, last: bool) -> None:
        """Leave the experts as they are."""

    def metadata(self) -> dict[str, Any]:
        """Return number, epochs, settings and digest of the experts."""
        buffer = self._ready()
        return {
            "experts": self._count,
            "epochs": self.epochs,
            "settings": buffer.settings.model_dump(mode="json"),
            "digest": buffer.digest(self._count),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return how many checkpoints were drawn, and from which experts."""
        return {"drawn": self.drawn, "count": self._count, "digest": self._ready().digest(self._count)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the same experts, also where their buffer has grown since."""
        self.drawn, self._used, self._expected = int(state["drawn"]), int(state["count"]), str(state["digest"])
        if self.buffer is not None:
            self._take(self.buffer)
            self._require_the_same()

    def _require_the_same(self) -> None:
        """Refuse experts that are not those of the state that was loaded."""
        assert self.buffer is not None
        if self._expected and self.buffer.digest(self._count) != self._expected:
            raise CheckpointError(
                f"the experts in '{self.buffer.path}' are not those that this run started with: restore the folder, or "
                f"start again with another --out"
            )
