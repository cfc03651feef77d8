"""Every registered method passes the contract suite."""

from ddkit import methods
from ddkit.testing import parametrize_checks


@parametrize_checks(methods.available())
def test_method_keeps_the_contract(check) -> None:
    check()
    assert callable(check)
