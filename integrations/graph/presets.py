"""Which methods learn a condensed graph: what each matches, with which options?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ddkit.integrations.graph.learned import Options
from ddkit.integrations.graph.matching import Match, match_gradients, match_kernel, match_means
from ddkit.integrations.graph.untrained import CHOICES

Structure = Literal["identity", "learned", "induced"]


@dataclass(frozen=True)
class Preset:
    """A method that learns: what it matches, how long, and which edges it learns unless told otherwise."""

    match: Match
    structure: Structure
    options: Options


LEARNED = {
    # Chosen on validation nodes of Cora and of generated graphs (benchmarks/graph_condensation.py): the rate of before,
    # 0.1, was that of Cora, and a graph of other words lost 20 points by it. Adam that keeps its moments from one outer
    # step to the next, as the authors' does, was left: on no graph was it better, and features were driven off further.
    "gcond": Preset(
        match_gradients,
        "learned",
        Options(lr=0.01, row_sum=1.0, weights="authors"),
    ),
    "gcond-x": Preset(match_gradients, "identity", Options(row_sum=1.0)),
    "doscond": Preset(
        match_gradients,
        "identity",
        Options(restarts=150, outer_steps=1, inner_steps=0, metric="mse", lr=0.1, row_sum=1.0),
    ),
    "gcdm": Preset(match_means, "identity", Options(restarts=200, outer_steps=1, inner_steps=0)),
    "gc-krr": Preset(match_kernel, "identity", Options(restarts=200, outer_steps=1, inner_steps=0)),
}
METHODS = ("means", "kmeans", *CHOICES, *LEARNED)
