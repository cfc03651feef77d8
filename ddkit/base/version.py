"""Which version of ddkit is installed?"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("ddkit")
except PackageNotFoundError:  # run from a tree that was never installed
    __version__ = "unknown"
