"""Every objective works with every synthesis."""

from ddkit.testing import parametrize_pairs


@parametrize_pairs()
def test_objective_works_with_synthesis(check) -> None:
    check()
    assert callable(check)
