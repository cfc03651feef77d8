"""Every objective works with every synthesis, but for those that would learn nothing and are refused."""

import pytest

from ddkit import Distiller
from ddkit.errors import ConfigError
from ddkit.testing import parametrize_pairs, toy_data

#: Objectives that look at images alone learn no labels.
BLIND = [(objective, "labels-only") for objective in ("distribution", "alignment", "characteristic", "discrepancy")]


@parametrize_pairs(refused=BLIND)
def test_objective_works_with_synthesis(check) -> None:
    check()
    assert callable(check)


@pytest.mark.parametrize(("objective", "how"), BLIND)
def test_objective_that_sees_no_labels_is_refused_where_only_they_are_learned(objective: str, how: str) -> None:
    with pytest.raises(ConfigError, match="does not look at labels"):
        Distiller("dm", 2, steps=1, objective=objective, synthesis=how, model="convnet:width=4,depth=2").fit(toy_data())
