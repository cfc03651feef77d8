"""What do the accuracies after every experience say: final, on the way, forgotten, transferred?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ddkit.errors import ConfigError


@dataclass(frozen=True)
class StreamAccuracies:
    r"""Accuracies of a model on the tests of all experiences, after each of them.

    With :math:`a_{t,j}` the accuracy on the test of experience :math:`j` after training on :math:`t`, of :math:`T`, and
    tests weighted by their :math:`n_j` images (Lopez-Paz and Ranzato 2017; Chaudhry et al. 2018).

    Args:
        matrix: T rows of T fractions.
        sizes: test images of each experience.

    Raises:
        ConfigError: a matrix that is not square, or sizes that do not fit it.
    """

    matrix: Sequence[Sequence[float]]
    sizes: Sequence[int]

    def __post_init__(self) -> None:
        count = len(self.matrix)
        if not count or any(len(row) != count for row in self.matrix) or len(self.sizes) != count:
            raise ConfigError(
                f"accuracies of {count} experiences need {count} rows of {count} and as many sizes: "
                f"test on all experiences after each"
            )

    @property
    def after_each(self) -> list[float]:
        r"""Accuracy on the classes seen so far, after each experience: :math:`\sum_{j \le t} n_j a_{t,j} / n`."""
        return [
            sum(self.sizes[j] * row[j] for j in range(t + 1)) / sum(self.sizes[: t + 1])
            for t, row in enumerate(self.matrix)
        ]

    @property
    def final(self) -> float:
        """Accuracy on all classes after the last experience."""
        return self.after_each[-1]

    @property
    def incremental(self) -> float:
        """Average incremental accuracy: the mean of :attr:`after_each` (Rebuffi et al. 2017)."""
        return sum(self.after_each) / len(self.matrix)

    @property
    def forgetting(self) -> float:
        r"""Mean over :math:`j < T` of :math:`\max_{t < T} a_{t,j} - a_{T,j}`; 0 for one experience."""
        last = len(self.matrix) - 1
        losses = [max(self.matrix[t][j] for t in range(j, last)) - self.matrix[last][j] for j in range(last)]
        return sum(losses) / last if last else 0.0

    @property
    def backward_transfer(self) -> float:
        r"""Mean over :math:`j < T` of :math:`a_{T,j} - a_{j,j}`; 0 for one experience."""
        last = len(self.matrix) - 1
        gains = [self.matrix[last][j] - self.matrix[j][j] for j in range(last)]
        return sum(gains) / last if last else 0.0
