"""What does recipe ``nas`` keep of every proxy: its rankings, and what comparing them with the truth gave?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ddkit.integrations.nas.comparison import Comparison
from ddkit.integrations.nas.correlation import Correlation
from ddkit.integrations.nas.differences import Difference
from ddkit.integrations.nas.ranking import Cost, Ranking


@dataclass(frozen=True)
class Proxy:
    """One way of ranking, with its repeats.

    Args:
        name: of the method or measure.
        kind: ``distilled``, ``selected``, ``real`` or ``zero-cost``.
        ipc: images per class of a tiny set; None for others.
        steps: of training per candidate.
        rankings: one per draw.
        counts_passes: whether the image passes of making the sets are known.
    """

    name: str
    kind: str
    ipc: int | None
    steps: int
    rankings: list[Ranking]
    counts_passes: bool = False

    @property
    def title(self) -> str:
        """What tables and the figure call it."""
        if self.kind in ("distilled", "selected"):
            return f"{self.name}, {self.ipc} per class"
        return f"{self.name}, {self.steps} steps" if self.kind == "real" else self.name

    @property
    def file_name(self) -> str:
        """Stem of its files."""
        return "-".join(str(part) for part in (self.name, self.ipc, self.steps) if part is not None)

    @property
    def search_seconds(self) -> float:
        """Mean processor seconds of ranking all candidates once."""
        return float(np.mean([ranking.cost.cpu_seconds for ranking in self.rankings]))

    @property
    def preparation_seconds(self) -> float:
        """Mean processor seconds of making one set."""
        return float(np.mean([ranking.cost.preparation_seconds for ranking in self.rankings]))

    @property
    def total_seconds(self) -> float:
        """Both."""
        return self.search_seconds + self.preparation_seconds

    @property
    def cost(self) -> Cost:
        """Mean processor seconds of the draws, as a cost."""
        return Cost(cpu_seconds=self.search_seconds, preparation_seconds=self.preparation_seconds)

    @property
    def image_passes(self) -> int:
        """Training images that one ranking showed to its candidates."""
        return self.rankings[0].cost.image_passes


@dataclass(frozen=True)
class Judged:
    """A proxy with what comparing it with the truth gave.

    Args:
        proxy: what was compared.
        spearman: mean over its draws, over all candidates.
        top: the same over the best fifth of them by the truth.
        comparisons: one per draw.
        against: the selected set of its size that ranks best, for a distilled set.
        difference: of the rho of both.
    """

    proxy: Proxy
    spearman: Correlation
    top: Correlation
    comparisons: list[Comparison]
    against: Proxy | None
    difference: Difference | None

    @property
    def regret(self) -> float:
        """Mean regret over draws, a fraction."""
        return float(np.mean([one.regret for one in self.comparisons]))

    def row(self, candidates: int) -> dict[str, Any]:
        """Return the row of the table."""
        proxy, cost = self.proxy, self.proxy.rankings[0].cost
        rhos = [one.spearman["all"].value for one in self.comparisons]
        spread = f" ± {np.std([rho for rho in rhos if rho is not None]):.3f}" if None not in rhos else ""
        known = proxy.kind not in ("distilled", "selected") or proxy.counts_passes
        return {
            "proxy": proxy.title,
            "images": cost.images,
            "bytes": cost.bytes,
            "Spearman": "undefined" if self.spearman.value is None else f"{self.spearman.value:.3f}{spread}",
            "95 %": _ends(self.spearman),
            "Kendall": _mean([one.kendall["all"].value for one in self.comparisons]),
            "n": self.spearman.count,
            "Spearman, top 20 %": f"{self.top}, n {self.top.count}" if self.top.value is not None else None,
            "precision at 5": _mean([one.precision.get(5) for one in self.comparisons]),
            "accuracy of the pick %": round(100 * float(np.mean([one.selected_value for one in self.comparisons])), 1),
            "regret %": round(100 * self.regret, 1),
            "less the best selected set": f"{self.difference} ({self.against.name})" if self.against else None,
            "draws": len(proxy.rankings),
            "search s": round(proxy.search_seconds, 1),
            "preparation s": round(proxy.preparation_seconds, 1),
            "image passes": round(cost.image_passes / candidates) if cost.image_passes else 0,
            "with preparation": round(cost.total_passes / candidates) if known else None,
        }


def _ends(value: Correlation) -> str | None:
    return None if value.low is None else f"{value.low:.2f} to {value.high:.2f}"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(float(np.mean(known)), 3) if len(known) == len(values) else None
