"""Walk the imports of ddkit, lazy and typed ones included: circles, upward arrows, and the picture of the rooms.

python docs/imports.py          # draw docs/architecture.svg, print rooms, floors and the longest chains
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "architecture.svg"

#: The rooms, lowest first: a room imports from those before it, never from those behind it.
ROOMS = {
    "base": "errors, files, random streams, registries, configurations, devices",
    "codecs": "tensors in few bytes",
    "data": "real data; distilled/: the artifact; coresets/",
    "augment": "augmentations, the same for both sides",
    "models": "architectures; kernels/",
    "training": "recipe, batches, the loop, ridge, accuracy; experts/",
    "synthesis": "what is learned",
    "networks": "Setting, Signal and where matching networks come from",
    "objectives": "what is matched; unrolling/, constraints/",
    "methods": "presets over the pieces",
    "evaluation": "evaluate, baselines, statistics; report/",
    "engine": "Distiller, Session, checkpoints, run folders",
    "testing": "the contract suite",
    "integrations": "adapters (top level)",
    "recipes": "end-to-end jobs (top level)",
    "cli": "one file a command",
}


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Return every module of ddkit by its dotted name."""
    found = {}
    for folder, package in (
        ("ddkit", ("ddkit",)),
        ("integrations", ("ddkit", "integrations")),
        ("recipes", ("ddkit", "recipes")),
    ):
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root / folder).with_suffix("").parts
            if folder == "ddkit" and parts[0] in ("integrations", "recipes"):
                continue  # links to the other two folders
            found[".".join((*package, *(parts[:-1] if parts[-1] == "__init__" else parts)))] = path
    return found


def imported(name: str, path: Path, known: Mapping[str, Path]) -> Iterator[tuple[str, bool]]:
    """Yield the modules of ``known`` that one imports, and whether it does so when it is imported itself.

    Imports in functions and for type checkers count, and so do names given to ``import_module``.
    """
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    later = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            full = [f"{base}.{alias.name}" for alias in node.names]
            names = [one if one in known else base for one in full]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
            given = node.args[0]
            names = [given.value] if isinstance(given, ast.Constant) and isinstance(given.value, str) else []
        for target in names:
            if target in known and target != name:
                yield target, id(node) not in later


def graph(root: Path = ROOT, *, at_once: bool = False) -> dict[str, set[str]]:
    """Return what every module imports; ``at_once`` leaves lazy and typed imports out."""
    known = modules(root)
    return {
        name: {target for target, now in imported(name, path, known) if now or not at_once}
        for name, path in known.items()
    }


def room_of(module: str) -> str:
    """Return the room of a module; ``ddkit.errors`` belongs to the base, ``ddkit`` itself is the roof."""
    parts = module.split(".")
    return "" if len(parts) == 1 else "base" if parts[1] == "errors" else parts[1]


def upward(arrows: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """Return the imports that go up: from a room to a later one, or to the roof."""
    order = [*ROOMS, ""]
    return [
        (source, target)
        for source, targets in arrows.items()
        for target in sorted(targets)
        if order.index(room_of(target)) > order.index(room_of(source))
    ]


def circle(arrows: Mapping[str, set[str]]) -> list[str]:
    """Return the modules of one circle in the order of its arrows, the first one again at the end; [] without any."""
    done: set[str] = set()
    for start in arrows:
        trail: list[str] = []
        stack = [(start, iter(sorted(arrows[start])))] if start not in done else []
        trail += [name for name, _ in stack]
        while stack:
            target = next(stack[-1][1], None)
            if target is None:
                stack.pop()
                done.add(trail.pop())
            elif target in trail:
                return [*trail[trail.index(target) :], target]
            elif target not in done:
                stack.append((target, iter(sorted(arrows[target]))))
                trail.append(target)
    return []


def longest_chain(module: str, arrows: Mapping[str, set[str]]) -> list[str]:
    """Return the longest chain of imports that starts at ``module``; the graph has no circle."""

    @cache
    def chain(name: str) -> tuple[str, ...]:
        return (name, *max((chain(target) for target in arrows[name]), key=len, default=()))

    return list(chain(module))


def between_rooms(arrows: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Return which room imports from which other ones."""
    rooms: dict[str, set[str]] = {room: set() for room in ROOMS}
    for source, targets in arrows.items():
        if room_of(source):
            rooms[room_of(source)] |= {room_of(target) for target in targets} - {room_of(source)}
    return rooms


def floors(rooms: Mapping[str, set[str]]) -> dict[str, int]:
    """Return the floor of every room: one above the highest room from which it imports, the base on 0."""
    return {room: len(longest_chain(room, rooms)) - 1 for room in rooms}


def picture(rooms: Mapping[str, set[str]]) -> str:
    """Return the rooms floor by floor as SVG; arrows that follow from others are left out."""
    level = floors(rooms)
    rows = [[room for room in ROOMS if level[room] == floor] for floor in range(max(level.values()) + 1)]
    wide, high, row = 330, 44, 74
    width, height = max(map(len, rows)) * (wide + 24) + 84, len(rows) * row + 30
    place = {}
    for floor, names in enumerate(rows):
        left = (width - 60 - len(names) * (wide + 24) + 24) / 2
        for number, room in enumerate(names):
            place[room] = (left + number * (wide + 24), height - 30 - floor * row - high)
    direct = {
        (above, below)
        for above, ones in rooms.items()
        for below in ones
        if not any(below in rooms[middle] for middle in ones)
    }
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#557"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for above, below in sorted(direct):
        (x, y), (u, v) = place[above], place[below]
        line = f"M{x + wide / 2:.0f} {y + high}L{u + wide / 2:.0f} {v}"
        if level[above] - level[below] > 1:  # around the boxes between
            side, start, end = max(x, u) + wide + 50, y + high / 2, v + high / 2
            line = f"M{x + wide:.0f} {start:.0f}C{side:.0f} {start:.0f} {side:.0f} {end:.0f} {u + wide:.0f} {end:.0f}"
        lines.append(f'<path d="{line}" fill="none" stroke="#99a" marker-end="url(#a)"/>')
    for room, (x, y) in place.items():
        middle = f'x="{x + wide / 2:.0f}" text-anchor="middle"'
        lines += [
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{wide}" height="{high}" rx="6" fill="#eef3fb" stroke="#557"/>',
            f'<text {middle} y="{y + 18:.0f}" font-size="15" font-weight="bold">{room}</text>',
            f'<text {middle} y="{y + 35:.0f}" font-size="11">{ROOMS[room]}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def problems(arrows: Mapping[str, set[str]]) -> list[str]:
    """Return a line for every upward import and for a circle, each with its files."""
    known = modules()
    files = {name: str(path.relative_to(ROOT)) for name, path in known.items()}
    found = [
        f"{files[source]} imports {files[target]}, from {room_of(source)} up to {room_of(target) or 'the roof'}"
        for source, target in upward(arrows)
    ]
    around = circle(arrows)
    return [*found, *(["circle: " + " -> ".join(files[name] for name in around)] if around else [])]


def main() -> None:
    """Draw the picture and print what it shows."""
    arrows = graph()
    if found := problems(arrows):
        sys.exit("\n".join(found))
    rooms = between_rooms(arrows)
    PICTURE.write_text(picture(rooms), encoding="utf-8")
    print(f"{len(rooms)} rooms on {max(floors(rooms).values()) + 1} floors, {len(arrows)} modules")
    print(f"{sum(map(len, rooms.values()))} arrows between rooms, none upward, no circle")
    for module in sys.argv[1:] or ["ddkit.objectives.distribution", "ddkit.engine"]:
        chain = longest_chain(module, graph(at_once=True))
        print(f"{module}: a chain of {len(chain)}: {' -> '.join(name.removeprefix('ddkit.') for name in chain)}")


if __name__ == "__main__":
    main()
