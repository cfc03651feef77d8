"""Which of many architectures is best: rank them on a distilled set instead of on all data.

>>> from ddkit.integrations.nas import ProxyRanker, SearchSpace
>>> space = SearchSpace.convnet(depth=[1, 2, 3], width=[8, 16, 32], norm=["none", "instance"])
>>> ranking = ProxyRanker(steps=100, seeds=2).rank(space, distilled, validation)
>>> print(ranking.best, ranking.compare(truth).regret)
"""

from ddkit.integrations.nas.comparison import Comparison, break_even, compare, noise_ceiling
from ddkit.integrations.nas.correlation import Correlation
from ddkit.integrations.nas.differences import Difference, difference, mean_spearman
from ddkit.integrations.nas.entries import Cost, Entry
from ddkit.integrations.nas.measures import MEASURES, zero_cost
from ddkit.integrations.nas.optuna_objective import TrialJudge
from ddkit.integrations.nas.optuna_search import convnet, search
from ddkit.integrations.nas.ranker import ProxyRanker
from ddkit.integrations.nas.ranking import Ranking
from ddkit.integrations.nas.space import LITERATURE, SMALL, SearchSpace
from ddkit.integrations.nas.trainer import Preparation

__all__ = [
    "LITERATURE",
    "MEASURES",
    "SMALL",
    "Comparison",
    "Correlation",
    "Cost",
    "Difference",
    "Entry",
    "Preparation",
    "ProxyRanker",
    "Ranking",
    "SearchSpace",
    "TrialJudge",
    "break_even",
    "compare",
    "convnet",
    "difference",
    "mean_spearman",
    "noise_ceiling",
    "search",
    "zero_cost",
]
