"""The named methods. Other packages add theirs through the ``ddkit.methods`` entry point group."""

from ddkit.methods import cafe, coresets, dc, dcc, dm, dsa, ftd, haba, idc, itgan, kfs, mtt, tesla
from ddkit.methods.base import Method, register, registry


def get(name: str) -> Method:
    """Return the method called ``name``; an unknown name raises an error that suggests the nearest one."""
    return registry.get(name)


def available() -> list[str]:
    """Return the names of all methods, sorted."""
    return registry.available()


__all__ = [
    "Method",
    "available",
    "cafe",
    "coresets",
    "dc",
    "dcc",
    "dm",
    "dsa",
    "ftd",
    "get",
    "haba",
    "idc",
    "itgan",
    "kfs",
    "mtt",
    "register",
    "registry",
    "tesla",
]
