"""``ddkit doctor`` says what is installed, which devices and which data are there."""

from __future__ import annotations

import os
import platform
from importlib.util import find_spec
from typing import Any

import typer

from ddkit.cli.options import DataRoot, Json, Verbose
from ddkit.cli.tables import print_json, print_table

EXTRAS = {
    "tensorboard": "tensorboard",
    "ray": "ray",
    "hf": "datasets",
    "continual": "avalanche",
    "federated": "flwr",
    "private": "opacus",
    "graph": "torch_geometric",
}
PACKAGES = ("ddkit", "torch", "torchvision", "numpy", "pydantic", "safetensors", "typer")


def doctor(data_root: DataRoot = None, as_json: Json = False, verbose: Verbose = False) -> None:
    """Say which versions, extras, devices and data are there."""
    report = examine(data_root)
    if as_json:
        return print_json(report)
    for title, rows in report.items():
        typer.echo(f"\n{title}")
        print_table(rows)


def examine(data_root: str | None = None) -> dict[str, list[dict[str, Any]]]:
    """Return tables by title: versions, extras, devices, data, compiler.

    Args:
        data_root: where named data are looked for; None for ``$DDKIT_DATA`` or the cache folder.
    """
    from ddkit.base.device import why_not_compile
    from ddkit.data.loading import locate

    return {
        "versions": _versions(),
        "extras": [
            {"extra": extra, "package": module, "state": "present" if find_spec(module) else _install(extra)}
            for extra, module in EXTRAS.items()
        ],
        "devices": _devices(),
        "data": locate(data_root),
        "compiler": [{"for": "torch.compile", "state": why_not_compile() or "present"}],
    }


def _install(extra: str) -> str:
    return f"missing: pip install 'ddkit[{extra}]'"


def _versions() -> list[dict[str, Any]]:
    from importlib.metadata import PackageNotFoundError, version

    rows = [{"package": "python", "version": platform.python_version()}]
    for package in PACKAGES:
        try:
            rows.append({"package": package, "version": version(package)})
        except PackageNotFoundError:
            rows.append({"package": package, "version": "missing"})
    return rows


def _devices() -> list[dict[str, Any]]:
    import torch

    from ddkit.base.precision import bfloat16_is_fast
    from ddkit.engine.run import cpu_name

    def row(name: str, what: str) -> dict[str, Any]:
        return {"device": name, "what": what, "bfloat16": "fast" if bfloat16_is_fast(torch.device(name)) else "slow"}

    rows = [row("cpu", f"{cpu_name()}, {torch.get_num_threads()} threads of {os.cpu_count()} cores")]
    rows += [row(f"cuda:{i}", torch.cuda.get_device_name(i)) for i in range(torch.cuda.device_count())]
    return rows
