"""The tables of docs/adapters.md, written from what the recipes of the adapters measured.

    ddkit recipe run continual --set benchmark=split-mnist --out runs/continual-mnist
    python benchmarks/recipe_tables.py keep continual-mnist runs/continual-mnist --command "ddkit recipe run ..."
    python benchmarks/recipe_tables.py write

``keep`` takes the table of a finished recipe with its command, versions and machine into
``benchmarks/results/recipes`` and its figure into ``docs/images``. ``write`` replaces what stands between the markers
``<!-- NAME: COLUMN; COLUMN -->`` and ``<!-- NAME -->`` of the page by the table of that name, with those columns; a
column is written ``old=new`` to be called otherwise.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path
from typing import Any

from ddkit.base.files import write_text
from ddkit.engine import environment

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "benchmarks" / "results" / "recipes"
PAGE = ROOT / "docs" / "adapters.md"


def keep(name: str, folder: Path, command: str, note: str) -> None:
    """Take over the outcome of a recipe."""
    outcome = json.loads((folder / "table.json").read_text(encoding="utf-8"))
    content = {
        "command": command,
        "note": note,
        "seconds": outcome["seconds"],
        "table": outcome["table"],
        **{key: outcome[key] for key in ("audit",) if key in outcome},
        **environment("cpu"),
    }
    write_text(KEPT / f"{name}.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    figures = sorted(folder.glob("*.png"))
    if figures:
        shutil.copyfile(figures[0], ROOT / "docs" / "images" / f"recipe-{name}.png")


def table(rows: list[dict[str, Any]], columns: list[str]) -> str:
    """Return rows as a Markdown table with some of their columns."""
    pairs = [column.split("=", 1) if "=" in column else [column, column] for column in columns]
    for old, _ in pairs:
        if old not in rows[0]:
            raise SystemExit(f"there is no column '{old}': choose among {', '.join(rows[0])}")
    lines = ["| " + " | ".join(new for _, new in pairs) + " |", "|" + "---|" * len(pairs)]
    for row in rows:
        lines.append("| " + " | ".join("" if row[old] is None else str(row[old]) for old, _ in pairs) + " |")
    return "\n".join(lines)


def write() -> None:
    """Fill the page."""
    page = PAGE.read_text(encoding="utf-8")

    def filled(found: re.Match[str]) -> str:
        name, columns = found["name"], [column.strip() for column in found["columns"].split(";")]
        content = json.loads((KEPT / f"{name}.json").read_text(encoding="utf-8"))
        return f"{found['head']}\n{table(content['table'], columns)}\n<!-- {name} -->"

    pattern = r"(?P<head><!-- (?P<name>[\w-]+): (?P<columns>[^>]+) -->)\n.*?<!-- (?P=name) -->"
    write_text(PAGE, re.sub(pattern, filled, page, flags=re.DOTALL))


def main() -> None:
    """Keep an outcome or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    keeping = commands.add_parser("keep")
    keeping.add_argument("name")
    keeping.add_argument("folder", type=Path)
    keeping.add_argument("--command", required=True)
    keeping.add_argument("--note", default="")
    commands.add_parser("write")
    arguments = parser.parse_args()
    if arguments.what == "keep":
        keep(arguments.name, arguments.folder, arguments.command, arguments.note)
    else:
        write()


if __name__ == "__main__":
    main()
