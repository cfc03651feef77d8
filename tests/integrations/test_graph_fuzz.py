"""Does any damaged Planetoid file, graph or condensed graph crash, hang, swell or end in another error than ddkit's?

Inputs are tried in forked children with little memory and time. ``DDKIT_FUZZ`` sets how many (240 unless told
otherwise); the same numbers always make the same inputs.
"""

from __future__ import annotations

import faulthandler
import io
import os
import random
import resource
import signal
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch_geometric.data import Data

from ddkit.base.container import pack
from ddkit.errors import DDKitError
from ddkit.integrations.graph import GraphCondenser, load, planetoid
from ddkit.integrations.graph.artifact import FORMAT
from tests.integrations.graph_planetoid import Named, Raw, parts, pickled, write
from tests.integrations.graph_small import small_graph

COUNT = int(os.environ.get("DDKIT_FUZZ", "240"))
#: Inputs a child tries, bytes it may take beyond those it starts with, and seconds of processor time.
AT_ONCE, MEMORY, SECONDS = 40, 2**30, 60
STRANGE: list[Any] = [
    *(-1, 0, 1, 2, 255, 2**31 - 1, -(2**31), 2**31, 2**53, 2**63 - 1, 2**63, -(2**63), 2**80, 10**9, 10**12),
    *(None, True, "", "\n", "a\nb" * 200, b"\x00" * 64, (), (1,), (2**40, 2**40), [], [0], [[0]], {}, {0: 0}),
    *(Named("numpy", "ndarray"), Named("numpy", "dtype", ("f4",)), Named("scipy.sparse.csr", "csr_matrix", ())),
    *(Raw(b"]r\xff\xff\xff\x7f"), Raw(b")" + b"\x85" * 999), Raw(b"]q\x01h\x01a"), Raw(b"}q\x01(h\x01h\x01u")),
]
FIELDS = ["x", "edge_index", "y", "train_mask", "val_mask", "test_mask", "edge_weight", "edge_attr", "num_nodes"]


def flipped(raw: bytes, rng: random.Random) -> bytes:
    """Change, remove, repeat or cut some bytes."""
    changed = bytearray(raw)
    for _ in range(rng.choice([1, 1, 2, 8])):
        at = rng.randrange(len(changed) or 1)
        kind = rng.randrange(5)
        if kind == 0 and changed:
            changed[at % len(changed)] = rng.randrange(256)
        elif kind == 1:
            del changed[at : at + rng.choice([1, 4, 100])]
        elif kind == 2:
            changed[at:at] = rng.randbytes(rng.choice([1, 4, 9]))
        elif kind == 3:
            changed[at : at + 4] = rng.choice([b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\xff\xff\xff\xff", bytes(4)])
        else:
            changed[at:at] = changed[at : at + rng.choice([1, 30, 1000])] * rng.choice([1, 20])
    return bytes(changed)


def altered(value: Any, rng: random.Random) -> Any:
    """Put something strange in one place of a value of a pickle."""
    if isinstance(value, Named) and rng.random() < 0.9:
        if value.state is not None and rng.random() < 0.8:
            return Named(value.module, value.name, value.arguments, altered(value.state, rng), value.new)
        return Named(value.module, value.name, altered(value.arguments or (), rng), value.state, value.new)
    if isinstance(value, dict) and value and rng.random() < 0.95:
        key = rng.choice(list(value))
        if rng.random() < 0.2:
            return {**value, rng.choice([-1, 10**9, "one", 2**70]): value[key]}
        return {**value, key: altered(value[key], rng)}
    if isinstance(value, list | tuple) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        return type(value)([*value[:at], altered(value[at], rng), *value[at + 1 :]])
    if isinstance(value, bytes) and value and rng.random() < 0.8:
        return flipped(value, rng)
    return rng.choice(STRANGE)


def of_planetoid(rng: random.Random, folder: Path) -> None:
    """Read files of which one is damaged, and condense what is still accepted."""
    content = parts(rng.randrange(4))
    name = rng.choice(list(content))
    if name == "test.index" or rng.random() < 0.4:
        raw = content[name] if isinstance(content[name], bytes) else pickled(content[name])
        content[name] = flipped(raw, rng)
    else:
        content[name] = altered(content[name], rng)
    data = planetoid("citeseer", write(folder, content), normalise=rng.random() < 0.5)
    assert data.validate() and bool(torch.isfinite(data.x).all()) and len(data.x) < 10**6
    checked(GraphCondenser("means", missing="skip").condense(data))


def of_graph(rng: random.Random, folder: Path) -> None:
    """Condense a graph of which one or two fields are strange."""
    data = small_graph()
    for name in rng.sample(FIELDS, rng.choice([1, 1, 2])):
        data[name] = strange_field(data, name, rng)
    method, options = rng.choice([("means", {}), ("kmeans", {"ratio": 0.1}), ("random", {"nodes_per_class": 1})])
    if rng.random() < 0.2:
        method, options = "gcond", {"ratio": 0.1, "restarts": 1, "outer_steps": 2, "inner_steps": 1, "hidden": 4}
    options = {**options, "missing": rng.choice(["error", "skip"]), "directed": rng.choice(["symmetrise", "keep"])}
    checked(GraphCondenser(method, **options).condense(data))


def strange_field(data: Data, name: str, rng: random.Random) -> Any:
    """Return something else for a field: other numbers in some places, another type or shape, or no tensor."""
    value = data[name] if torch.is_tensor(data.get(name)) else torch.ones(data.num_edges)
    kind = rng.randrange(6)
    if kind == 0:
        return rng.choice([None, "text", 3, -1, [], [[1], [1, 2]], torch.tensor(1), torch.empty(0), {"a": 1}, object()])
    if kind == 1:
        return value[: rng.randrange(len(value) + 1)]
    if kind == 2:
        types = [torch.float64, torch.float16, torch.bool, torch.uint8, torch.int64, torch.complex64, torch.int8]
        return value.to(rng.choice(types))
    if kind == 3:
        return value.reshape(rng.choice([(-1,), (1, -1), (-1, 1), (-1, 2)]))
    changed = value.double() if kind == 4 else value.clone()
    numbers = [-1, -100, -5, 2**31, 2**53, 0, 59, 60, 10**9] + [float("nan"), float("inf"), 1e300, 3e38, 0.5] * (
        kind == 4
    )
    flat = changed.reshape(-1)
    for _ in range(rng.choice([1, 3, len(flat)])):
        flat[rng.randrange(len(flat))] = rng.choice(numbers) if changed.dtype != torch.bool else bool(rng.randrange(2))
    return changed


def of_artifact(rng: random.Random, folder: Path) -> None:
    """Load a file of a condensed graph that is damaged, or well sealed around something strange."""
    content: dict[str, Any] = {"kind": "nodes", "nodes": [2], "edges": [1], "weighted": True, "provenance": [{}]}
    tensors = {"x": torch.ones(2, 3), "y": torch.tensor([0, 1]), "edge_index": torch.tensor([[0], [1]])}
    tensors["edge_weight"] = torch.ones(1)
    strange = [
        *range(-2, 3),
        2**62,
        2**80,
        [],
        [1, 1],
        [2**62, 2**62],
        [-1],
        "a\nb" * 200,
        None,
        {},
        True,
        0.5,
        [{}, {}],
    ]
    for _ in range(rng.choice([0, 1, 2])):
        content[rng.choice([*content, "more"])] = rng.choice(strange)
    if rng.random() < 0.5:
        kind = rng.choice([torch.int64, torch.float32, torch.uint8])
        shape = rng.choice([(1,), (2,), (2, 1), (2, 3), (1, 1, 1)])
        tensors[rng.choice([*tensors, "z", "a\nb" * 200])] = torch.randint(-3, 2**20, shape).to(kind)
    raw = pack(tensors, content, kind=FORMAT, version=1)
    path = folder / "graph.safetensors"
    path.write_bytes(flipped(raw, rng) if rng.random() < 0.3 else raw)
    found = load(path)
    for graph in found if isinstance(found, list) else [found]:
        checked(graph)


def checked(graph: Data) -> None:
    """What is accepted has to be a graph: finite, with edges between its own nodes and classes from 0."""
    assert graph.validate() and bool(torch.isfinite(graph.x).all()) and int(graph.y.min()) >= 0


def outcome(make: Callable[[random.Random, Path], None], number: int, folder: Path) -> str:
    """Return what is wrong with how an input ended, or nothing."""
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            make(random.Random(number), folder)
        told = [str(one.message) for one in seen if "ddkit" in one.filename or "test" in one.filename]
    except DDKitError as error:
        told = [str(error)]
    except BaseException as error:
        return f"{make.__name__} {number}: {type(error).__name__}: {error}"[:300]
    return "".join(f"{make.__name__} {number}: not one line: {m[:200]!r}" for m in told if "\n" in m or len(m) > 600)


def child(make: Callable[[random.Random, Path], None], numbers: range, report: Path) -> None:
    """Try inputs within limits; the report names the running input, so that a crash tells which it was."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    torch.set_num_threads(1)
    faulthandler.disable()
    findings = io.StringIO()
    for number in numbers:
        report.write_text(findings.getvalue() + f"{make.__name__} {number}: ended the process")
        with tempfile.TemporaryDirectory() as folder:
            found = outcome(make, number, Path(folder))
        findings.write(found + "\n" if found else "")
    report.write_text(findings.getvalue())


def findings_of(make: Callable[[random.Random, Path], None], numbers: range, folder: Path) -> list[str]:
    """Run :func:`child` in a process of its own and return its findings."""
    report = folder / "report"
    process = os.fork()
    if process == 0:
        try:
            child(make, numbers, report)
        finally:
            os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    found = report.read_text().splitlines()
    if status:
        found[-1] += f" by {signal.Signals(-status).name}"
    return found


def test_no_damaged_input_does_anything_but_be_refused_or_read(tmp_path: Path) -> None:
    found = []
    for make, share in ((of_planetoid, 2), (of_graph, 1), (of_artifact, 1)):
        count = COUNT * share // 4
        for first in range(0, count, AT_ONCE):
            found += findings_of(make, range(first, min(first + AT_ONCE, count)), tmp_path)
    assert not found, "\n".join(found)


def test_a_crash_and_a_bomb_are_findings(tmp_path: Path) -> None:
    def crash(rng: random.Random, folder: Path) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    def bomb(rng: random.Random, folder: Path) -> None:
        bytearray(2 * MEMORY)

    assert findings_of(crash, range(1), tmp_path) == ["crash 0: ended the process by SIGSEGV"]
    assert findings_of(bomb, range(1), tmp_path) == ["bomb 0: MemoryError: "]
