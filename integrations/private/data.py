"""Who may look at the private records: nobody but two queries, which clip, add noise and are charged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ddkit.data.preprocessing import Preprocessing
from ddkit.data.real import RealData
from ddkit.errors import ConfigError, DataError
from ddkit.integrations.private.arguments import checked_label_counts, require_whole
from ddkit.integrations.private.budget import Plan
from ddkit.integrations.private.noise import NoiseSource, SystemNoise
from ddkit.integrations.private.separable import FLOAT32_ROUNDING, clipped, require_separate

#: Maps preprocessed images (n, C, H, W) and labels (n,) to one row per record (n, D); row i must depend on record i.
RecordFunction = Callable[[Tensor, Tensor], Tensor]


class PrivateData:
    r"""The private records behind a wall.

    Its queries are :meth:`noisy_sum` and :meth:`noisy_class_sums`. Both answer

    .. math:: \sum_{i \in B} f(x_i, y_i) \min\Big(1, \frac{C}{\|f(x_i, y_i)\|}\Big) + \mathcal N(0, \sigma^2 C^2 I)

    with :math:`B` a Poisson sample, or all records: a query changes by at most C when one record comes or goes, pixels
    and label. A row that is not finite counts as zero. Every query is charged to the plan before its noise is drawn,
    and an empty sample is one as well. Everything else of a fit sees :attr:`public`, a stand-in with blank images.

    This holds only where a row depends on nothing but its record, so that every query first tries its function on
    public images, see :func:`~ddkit.integrations.private.separable.require_separate`.

    With ``groups`` the unit is a group (a patient, a user) with all its records. Poisson samples are of groups, and a
    row is divided by the number of records of its group: the group adds the mean of its clipped rows, of norm at most
    C in one sum and over all class sums together, so that a query changes by at most C when a whole group comes or
    goes.

    Args:
        real: the records.
        plan: the queries that are paid for.
        normalisation: public constants (mean, std), on the [0, 1] scale, for every channel. Those of the private
            images would be a query of their own.
        records: N as it is made public; None publishes the number of records. With groups, their number.
        counts: public numbers of records per class; None assumes equal classes.
        noise: None for the operating system.
        groups: (N,) the number of the group of each record, see :func:`~ddkit.integrations.private.groups.numbered`;
            None where every record is a unit of its own.

    Raises:
        ConfigError: public numbers that make no sense.
        DataError: no records.
    """

    def __init__(
        self,
        real: RealData,
        plan: Plan,
        *,
        normalisation: tuple[float, float] = (0.5, 0.5),
        records: int | None = None,
        counts: Sequence[int] | None = None,
        noise: NoiseSource | None = None,
        groups: Tensor | None = None,
    ) -> None:
        if not len(real):
            raise DataError("a private set without records: give at least one image")
        preprocessing = public_preprocessing(real.shape[0], normalisation)
        self._real = real.with_preprocessing(preprocessing)
        self._plan = plan
        self._noise = noise or SystemNoise()
        require_whole(records=records)
        self._units = torch.arange(len(real)) if groups is None else groups
        sizes = torch.bincount(self._units)
        self._shares = 1 / sizes.double()[self._units]
        self.records = len(sizes) if records is None else records
        self.class_counts = public_counts(self.records, real.num_classes, counts)
        if groups is not None:  # sums are over groups, and only the proportions of the classes are those of records
            self.class_counts *= self.records / self.class_counts.sum()
        self.public = stand_in(real, preprocessing)

    @property
    def plan(self) -> Plan:
        """The queries that are paid for."""
        return self._plan

    @property
    def noise(self) -> NoiseSource:
        """Where noise and samples come from."""
        return self._noise

    def noisy_sum(
        self,
        rows: RecordFunction,
        *,
        clip: float,
        sigma: float,
        rate: float = 1.0,
        chunk: int = 256,
        rounding: float = FLOAT32_ROUNDING,
    ) -> Tensor:
        """Return the noisy sum of one clipped row per record.

        Args:
            rows: maps a chunk of records to their rows (n, D).
            clip: C, largest norm of a row.
            sigma: noise over sensitivity.
            rate: of the Poisson sample; 1 for all records.
            chunk: records per call of ``rows``.
            rounding: of the arithmetic of ``rows``, see :mod:`ddkit.integrations.private.separable`.

        Returns:
            (D,) float64.

        Raises:
            ConfigError: a bound that bounds nothing, or a row that other records change; nothing was asked.
            PrivacyBudgetError: the query is not planned.
        """
        index = self._sample(rows, clip, sigma, rate, chunk, rounding)
        total = self._total(index, rows, clip, chunk, by_class=False)
        return total[0] + self._scaled_noise(sigma * clip, total[0])

    def noisy_class_sums(
        self,
        rows: RecordFunction,
        *,
        clip: float,
        sigma: float,
        rate: float = 1.0,
        chunk: int = 256,
        count_weight: float = 0.0,
        rounding: float = FLOAT32_ROUNDING,
    ) -> tuple[Tensor, Tensor | None]:
        r"""Return the noisy sum of clipped rows of every class, and noisy class counts if asked.

        A record is in the sum of one class only, so that all of them together are one query with the sensitivity of
        one: C, or :math:`C \sqrt{1 + w^2}` when w times C is added up for every record to count them.

        Args:
            rows: maps a chunk of records to their rows (n, D).
            clip: C, largest norm of a row.
            sigma: noise over sensitivity.
            rate: of the Poisson sample; 1 for all records.
            chunk: records per call of ``rows``.
            count_weight: w; 0 for no counts.
            rounding: of the arithmetic of ``rows``, see :mod:`ddkit.integrations.private.separable`.

        Returns:
            sums (K, D) float64; counts (K,) float64 or None.

        Raises:
            ConfigError: a bound that bounds nothing, or a row that other records change; nothing was asked.
            PrivacyBudgetError: the query is not planned.
        """
        index = self._sample(rows, clip, sigma, rate, chunk, rounding)
        total = self._total(index, rows, clip, chunk, by_class=True)
        deviation = sigma * clip * (1 + count_weight**2) ** 0.5
        sums = total + self._scaled_noise(deviation, total)
        if not count_weight:
            return sums, None
        labels = self._real.labels[index.to(self._real.labels.device)].cpu()
        counts = torch.bincount(labels, self._shares[index], minlength=self._real.num_classes)
        weighted = count_weight * clip * counts
        return sums, (weighted + self._scaled_noise(deviation, weighted)) / (count_weight * clip)

    def _sample(
        self, rows: RecordFunction, clip: float, sigma: float, rate: float, chunk: int, rounding: float
    ) -> Tensor:
        """Return which records a query sees, once its function was tried and it is paid for."""
        if not 0 < clip < float("inf"):
            raise ConfigError(f"max_norm={clip} must be positive and finite: it bounds what one record can change")
        self._plan.require(sigma, rate)
        index = torch.arange(len(self._real))
        if rate != 1.0:
            index = (self._noise.uniform(int(self._units.max()) + 1) < rate)[self._units].nonzero().flatten()
        if len(index):  # of an empty sample nothing is read

            def tried(images: Tensor, labels: Tensor) -> Tensor:
                device = self._real.device
                return _checked_rows(rows(images.to(device), labels.to(device)), len(images))

            require_separate(tried, self.public, clip, self._plan.made, min(chunk, len(self._real)), rounding)
        self._plan.charge(sigma, rate)
        return index

    def _total(self, index: Tensor, rows: RecordFunction, clip: float, chunk: int, *, by_class: bool) -> Tensor:
        """Add up clipped rows (K, D), or (1, D) over all classes, in float64."""
        groups = self._real.num_classes if by_class else 1
        total: Tensor | None = None
        # An empty sample has a chunk without records, which says how long a row is.
        for part in index.split(chunk) if len(index) else [index]:
            labels = self._real.labels[part.to(self._real.labels.device)]
            values = self._clipped(self._rows(rows, part, labels), clip)
            share = F.one_hot(labels.cpu() if by_class else torch.zeros(len(part), dtype=torch.int64), groups).double()
            added = (share * self._shares[part, None]).T @ values
            total = added if total is None else total + added
        assert total is not None
        return total

    def _rows(self, rows: RecordFunction, part: Tensor, labels: Tensor) -> Tensor:
        if len(part):
            return _checked_rows(rows(self._real.batch(part), labels), len(part))
        # Not every layer and hook takes a batch of nothing, so a blank image says how long a row is.
        blank = rows(self.public.batch(torch.zeros(1, dtype=torch.int64)), torch.zeros(1, dtype=torch.int64))
        return _checked_rows(blank, 1)[:0]

    def _clipped(self, values: Tensor, clip: float) -> Tensor:
        """Bound the norm of every row (n, D); a row that is not finite becomes zero, as its norm bounds nothing."""
        return clipped(values, clip)

    def _scaled_noise(self, deviation: float, like: Tensor) -> Tensor:
        return deviation * self._noise.gaussian(tuple(like.shape))


def _checked_rows(values: Tensor, records: int) -> Tensor:
    """Return rows (n, D) in float64 on the CPU; anything but one row per record would add up what is not clipped."""
    if values.dim() != 2 or len(values) != records:
        raise ConfigError(
            f"a query of {records} records got values of shape {tuple(values.shape)}: it needs one row per record"
        )
    return values.detach().cpu().double()


def public_preprocessing(channels: int, normalisation: tuple[float, float]) -> Preprocessing:
    """Return the same public constants for every channel.

    Raises:
        ConfigError: not a pair of a mean and a positive standard deviation.
    """
    try:
        mean, std = (float(value) for value in normalisation)
        return Preprocessing((mean,) * channels, (std,) * channels)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"normalisation={normalisation!r} must be public constants (mean, std) on the [0, 1] scale, such as "
            f"(0.5, 0.5): {error}"
        ) from None


def stand_in(real: RealData, preprocessing: Preprocessing) -> RealData:
    """Return what is public of a set: shape, class names and preprocessing, with one blank image per class."""
    blank = torch.zeros(real.num_classes, *real.shape, dtype=torch.uint8)
    labels = torch.arange(real.num_classes)
    return RealData(blank, labels, real.class_names, preprocessing, real.name, real.split)


def public_counts(records: int, classes: int, counts: Sequence[int] | None) -> Tensor:
    """Return the sizes (K,) by which class sums are divided, float64; None assumes equal classes.

    Raises:
        ConfigError: not one positive whole number per class.
    """
    sizes = checked_label_counts(counts)
    if sizes is None:
        return torch.full((classes,), records / classes, dtype=torch.float64)
    if len(sizes) != classes:
        raise ConfigError(f"label_counts={sizes} has {len(sizes)} numbers: give one for each of {classes} classes")
    return torch.tensor(sizes, dtype=torch.float64)
