"""The tables of README and docs/measurements.md, written from what was measured.

    DDKIT_DATA=... python benchmarks/table.py --results benchmarks/results/accuracy-cpu.json [--write]
    python benchmarks/table.py --seconds benchmarks/results/time-to-accuracy.json [--write]

Without ``--write`` the overview, or the table of seconds, is printed. With it, what stands between the markers
``<!-- methods -->`` of README.md and ``<!-- cells -->`` or ``<!-- seconds -->`` of docs/measurements.md is replaced.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from time_to_accuracy import best, shared_seconds

from ddkit import data, methods
from ddkit.data import RealData

#: Columns of the overview.
CELLS = ("mnist-1", "mnist-10", "cifar10-1", "cifar10-10")
TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10"}
#: Real images in as many bytes, by the prefix of their cells.
CONTROLS = {"random@bytes": "", "coded@bytes": ", coded", "best@bytes": ", in their best form"}
#: How a point of the table of seconds was measured.
WAYS = {"network_percent": "common protocol", "own_percent": "own way", "kernel_percent": "kernel"}
#: Options that say where something lies, not what is computed.
PATHS = ("buffer", "generator")


def percent(mean: float, std: float) -> str:
    """Return ``mean ± std``."""
    return f"{mean:.1f} ± {std:.1f}"


def measured(row: Mapping[str, Any] | None) -> str:
    """Return all accuracies of a cell and the published one: ``common; own; kernel (published)``."""
    if row is None:
        return ""
    parts = [percent(row["mean"], row["std"])]
    parts += [f"{key} {percent(row[key]['mean'], row[key]['std'])}" for key in ("own", "kernel") if key in row]
    published = f" ({row['published']['accuracy']:.1f})" if row["published"] else ""
    return "; ".join(parts) + published


def overview(results: Mapping[str, Any]) -> str:
    """Return one line per method: family, what it learns, accuracies beside the published ones."""
    heads = [f"{TITLES[cell.split('-')[0]]}, {cell.split('-')[1]} per class" for cell in CELLS]
    lines = ["| method | family | what is learned | " + " | ".join(heads) + " | paper |"]
    lines.append("|" + "---|" * (len(heads) + 4))
    described = [methods.get(name).describe() for name in methods.available()]
    order = ("coreset", "gradient", "distribution", "trajectory", "meta", "kernel")
    described.sort(key=lambda m: (next(i for i, word in enumerate(order) if m["family"].startswith(word)), m["name"]))
    for method in described:
        cells = [measured(results.get(f"{method['name']}-{cell}")) for cell in CELLS]
        if method["family"] == "coreset" and not any(cells):
            continue
        words = [f"`{method['name']}`", method["family"], method["learns"], *cells]
        lines.append("| " + " | ".join(words) + f" | [{method['paper']}]({method['url']}) |")
    for control, form in CONTROLS.items():
        extra = [measured(results.get(f"{control}-{cell}")) for cell in CELLS]
        if any(extra):
            lines.append(f"| random at the bytes of float32 pixels{form} | coreset | nothing | {' | '.join(extra)} | |")
    return "\n".join(lines)


def flat(options: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return ``key=value`` of nested options, without paths."""
    found: list[str] = []
    for key, value in options.items():
        if isinstance(value, Mapping):
            found += flat(value, f"{prefix}{key}.")
        elif key not in PATHS and f"{prefix}{key}" != "steps":
            found.append(f"{prefix}{key}={json.dumps(value)}")
    return found


def details(results: Mapping[str, Any], loaded: Mapping[str, RealData]) -> str:
    """Return one line per cell with its budget: steps of the official ones, changed settings, CPU seconds, bytes."""
    lines = [
        "| data | per class | set | accuracy % | own way % | kernel % | published % | outer steps (official) | CPU s "
        "| decoded images | bytes | settings that differ from the official ones |",
        "|" + "---|" * 12,
    ]
    for name, row in sorted(results.items(), key=lambda item: (item[1]["data"], item[1]["ipc"], -item[1]["mean"])):
        method, source, _ = name.rsplit("-", 2)
        distils = method in methods.registry and not methods.get(method).is_coreset
        official = methods.get(method).configure(loaded[source], row["ipc"]).steps if distils else None
        stored = row.get("stored", {})
        own, kernel = (row.get(key) for key in ("own", "kernel"))
        seconds = row.get("distil_cpu_seconds") or row["distil_seconds"]
        shared = shared_seconds(row)
        words = [
            TITLES[source],
            str(row["ipc"]),
            f"`{method}`",
            percent(row["mean"], row["std"]),
            percent(own["mean"], own["std"]) if own else "",
            percent(kernel["mean"], kernel["std"]) if kernel else "",
            f"{row['published']['accuracy']:.1f}" if row["published"] else "",
            f"{row['config']['steps']:,} ({official:,})" if official is not None else "",
            f"{seconds:,.0f}" + (f" + {shared:,.0f} shared" if shared else ""),
            f"{row['decoded_images']:,}" if "decoded_images" in row else "",
            f"{stored.get('payload', stored['bytes']):,}" if stored else "",
            row.get("form") or ", ".join(flat(row.get("overrides", {}))),
        ]
        lines.append("| " + " | ".join(words) + " |")
    return "\n".join(lines)


def seconds_to(results: Mapping[str, Any]) -> str:
    """Return one line per method: CPU seconds to every accuracy, and the best of its points; fastest first."""
    thresholds = [str(number) for number in sorted(int(key) for key in next(iter(results.values()))["reached"])]
    heads = [f"s to {number} %" for number in thresholds]
    head = f"| set | {' | '.join(heads)} | best % | by | after s | of which shared |"
    lines = [head, "|" + "---|" * (len(heads) + 5)]

    def rank(result: Mapping[str, Any]) -> list[float]:
        later = result.get("reached_in_cell", {})
        found = [result["reached"][number] or later.get(number) for number in reversed(thresholds)]
        return [math.inf if seconds is None else seconds for seconds in found]

    for result in sorted(results.values(), key=rank):
        points = result["points"]
        last, sign = points[-1]["seconds"], "≤ " if "from_cell" in result else ""
        later = result.get("reached_in_cell", {})
        highest = max(points, key=best)
        words = [
            f"`{result['method']}`",
            *(in_seconds(result["reached"][n], later.get(n), last, sign) for n in thresholds),
            f"{best(highest):.1f}",
            next(words for key, words in WAYS.items() if highest.get(key) == best(highest)),
            f"{highest['seconds']:.0f}",
            f"{result['shared_seconds']:.0f}" if result["shared_seconds"] else "",
        ]
        lines.append("| " + " | ".join(words) + " |")
    return "\n".join(lines)


def in_seconds(reached: float | None, later: float | None, last: float, sign: str) -> str:
    """Return when an accuracy was reached; ``later`` is an upper bound from a longer run."""
    if reached is not None:
        return f"{sign}{reached:.0f}"
    return f"≤ {later:.0f}" if later is not None else f"not in {last:.0f}"


def replaced(text: str, marker: str, table: str) -> str:
    """Return ``text`` with the part between two markers replaced."""
    sign = f"<!-- {marker} -->"
    if text.count(sign) != 2:
        raise SystemExit(f"the text needs the marker {sign} twice")
    return re.sub(f"{sign}.*{sign}", lambda _: f"{sign}\n{table}\n{sign}", text, flags=re.DOTALL)


def write(name: str, marker: str, table: str) -> None:
    """Put a table between the markers of a file."""
    path = Path(name)
    path.write_text(replaced(path.read_text(encoding="utf-8"), marker, table), encoding="utf-8")


def main() -> None:
    """Print or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--results", type=Path, help="accuracies of the cells")
    source.add_argument("--seconds", type=Path, help="seconds to accuracies")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    if arguments.seconds:
        table = seconds_to(json.loads(arguments.seconds.read_text()))
        return write("docs/measurements.md", "seconds", table) if arguments.write else print(table)
    results = json.loads(arguments.results.read_text())
    if not arguments.write:
        return print(overview(results))
    loaded = {source: data.load(source, "train", download=False) for source in TITLES}
    write("README.md", "methods", overview(results))
    write("docs/measurements.md", "cells", details(results, loaded))


if __name__ == "__main__":
    main()
