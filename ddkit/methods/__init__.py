"""The named methods. Other packages add theirs through the ``ddkit.methods`` entry point group."""

from ddkit.methods import (
    cafe,
    coresets,
    dc,
    dcc,
    dd,
    dm,
    dream,
    dsa,
    fast_dance,
    fast_dm,
    fast_kfs,
    frepo,
    ftd,
    gtn,
    haba,
    idc,
    idm,
    itgan,
    kfs,
    kip,
    ld,
    m3d,
    mtt,
    ncfm,
    rfad,
    rtp,
    sldd,
    tesla,
)
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
    "dd",
    "dm",
    "dream",
    "dsa",
    "fast_dance",
    "fast_dm",
    "fast_kfs",
    "frepo",
    "ftd",
    "get",
    "gtn",
    "haba",
    "idc",
    "idm",
    "itgan",
    "kfs",
    "kip",
    "ld",
    "m3d",
    "mtt",
    "ncfm",
    "register",
    "registry",
    "rfad",
    "rtp",
    "sldd",
    "tesla",
]
