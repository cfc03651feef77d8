"""How is JSON read that a power cut, an editor or a stranger may have changed?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

#: Levels of lists and objects within each other; what ddkit writes has fewer than 30.
MAX_DEPTH = 100


def parse_json(raw: bytes | str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: bytes or text that are no UTF-8, no JSON, a number of thousands of digits, or more than
            ``MAX_DEPTH`` levels.
    """
    try:
        value = json.loads(raw.decode("utf-8") if isinstance(raw, bytes) else raw)
    except RecursionError:
        raise ValueError(f"more than {MAX_DEPTH} levels of lists and objects") from None
    level, depth = [value], 0
    while level := [inner for item in level for inner in _inside(item)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"more than {MAX_DEPTH} levels of lists and objects")
    json.dumps(value, ensure_ascii=False).encode("utf-8")  # half a character is a ValueError of its own
    return value


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object that a file holds.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds something else, see :func:`parse_json`.
    """
    value = parse_json(path.read_bytes())
    if not isinstance(value, dict):
        raise ValueError(f"it holds a JSON {type(value).__name__} where an object is needed")
    return value


def read_metrics(path: Path) -> tuple[dict[int, dict[str, Any]], list[int]]:
    """Read the training log of a run.

    Returns:
        its lines by their number (from 1), objects with a finite number ``step``; and the numbers of damaged lines.

    Raises:
        OSError: the file is there and cannot be read.
    """
    lines: dict[int, dict[str, Any]] = {}
    damaged: list[int] = []
    for number, raw in enumerate(path.read_bytes().splitlines() if path.is_file() else [], start=1):
        if not raw.strip():
            continue
        try:
            line = parse_json(raw)
        except ValueError:
            line = None
        if isinstance(line, dict) and _is_step(line.get("step")):
            lines[number] = line
        else:
            damaged.append(number)
    return lines, damaged


def _is_step(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53
