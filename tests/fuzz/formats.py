"""Which files does ddkit read, how are good ones made, and how is each read?"""

from __future__ import annotations

import functools
import io
import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ddkit import recipes
from ddkit.base.checkpoint import load_checkpoint
from ddkit.base.config import parse_assignments
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.preprocessing import Preprocessing
from ddkit.engine import Callback, Distiller, Run, RunFolder, read_lines
from ddkit.evaluation.assess import read_evaluation
from ddkit.evaluation.rate import Curve, Point
from ddkit.evaluation.rate_kept import write_kept
from ddkit.evaluation.report import comparison_table, write_report
from ddkit.methods import get
from ddkit.synthesis.gan import load_generator
from ddkit.synthesis.gan.generator import Generator, save_generator
from ddkit.testing.small import small_overrides, toy_data
from ddkit.training.experts import ExpertBuffer, ExpertSettings, build_buffer

from . import mutations
from .harness import Read

Change = Callable[[random.Random, bytes], bytes]


@dataclass(frozen=True)
class Format:
    """Good files, how they are read and changed, files that are small and stand for something large, and the cost."""

    seeds: Sequence[bytes]
    read: Read
    change: Change
    bombs: Sequence[bytes] = field(default=())
    dear: bool = False


def either(first: Change, second: Change, share: float = 0.25) -> Change:
    return lambda rng, raw: (first if rng.random() < share else second)(rng, raw)


SEALED = either(mutations.change_bytes, mutations.change_sealed)


# Artifacts


#: Methods, and pieces that replace theirs, with every form in which an artifact stores images.
ARTIFACTS: dict[str, dict[str, Any]] = {
    "dm": {},
    "rtp": {},
    "idc": {},
    "itgan": {},
    "haba": {},
    "frepo": {},
    "random": {},
    "kfs": {},
}


def artifacts(folder: Path) -> Format:
    data = toy_data()
    seeds = [Distiller(name, 2, **small_overrides(name, data)).fit(data).to_bytes() for name in ARTIFACTS]

    def read(raw: bytes, folder: Path) -> None:
        distilled = DistilledDataset.from_bytes(raw)
        assert DistilledDataset.from_bytes(distilled.to_bytes()).to_bytes() == distilled.to_bytes()
        repr(distilled), distilled.viewable(), distilled.started_as(), distilled[0]

    return Format(seeds, read, SEALED, [bomb for seed in seeds for bomb in artifact_bombs(seed)])


#: Codecs with every form of symbols.
CODECS = [
    *(f"uniform:bits=3,coder={coder}" for coder in ("raw", "zlib", "lzma", "zstd", "brotli", "webp")),
    "uniform:bits=2,group=image",
    "uniform:bits=5,group=patch",
    "dct:coder=raw",
    "dct:step=0.2,resolution=2,coder=zlib",
    "dct:resolution=4,block=0,coder=brotli",
    "float16",
]


def coded_artifacts(folder: Path) -> Format:
    data, read = toy_data(), artifacts(folder).read
    made = {name: Distiller(name, 2, **small_overrides(name, data)).fit(data) for name in ("dm", "haba", "frepo")}
    coloured = DistilledDataset(
        torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)),
        torch.tensor([2, 0, 1, 1, 0, 2]),
        class_names="abc",
        preprocessing=Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3),
    )
    sets = [made["dm"].coded(codec) for codec in CODECS]
    sets += [made["haba"].coded("uniform:bits=3"), made["frepo"].coded("uniform:bits=3")]
    sets += [coloured.coded("palette:colours=5"), coloured.coded("dct")]
    seeds = [one.to_bytes() for one in sets]
    return Format(seeds, read, SEALED, [bomb for seed in seeds for bomb in coded_bombs(seed)])


def coded_bombs(raw: bytes) -> list[bytes]:
    """Enlarge every number in the entries of a coded artifact, and every side of its shapes."""
    tensors, document = mutations.opened(raw)
    bombs = []
    for path in mutations.places(document["content"]["codec"]["tensors"]):
        for factor in (50, 10**4, 10**9):
            content = json.loads(json.dumps(document["content"]))
            entries = content["codec"]["tensors"]
            value = mutations.get(entries, path)
            if type(value) in (int, float):
                mutations.get(entries, path[:-1])[path[-1]] = factor * value
                bombs.append(mutations.sealed(tensors, {**document, "content": content}))
    return bombs


def artifact_bombs(raw: bytes) -> list[bytes]:
    """Enlarge every length in the options of an artifact, and its budget and class names with them."""
    tensors, document = mutations.opened(raw)
    bombs = []
    for key, value in document["content"]["synthesis_options"].items():
        for factor in (50, 10**4, 10**9):
            larger = [factor * n for n in value] if isinstance(value, list) else factor * value
            if isinstance(value, int | list) and not isinstance(value, bool):
                content = json.loads(json.dumps(document["content"]))
                content["synthesis_options"][key] = larger
                bombs.append(mutations.sealed(tensors, {**document, "content": content}))
    for name, tensor in tensors.items():
        if tensor.dim() and tensor.numel() * 2000 < 2**22:
            many = torch.cat([tensor] * 2000)
            bombs.append(mutations.sealed({**tensors, name: many}, document))
    return bombs


def generators(folder: Path) -> Format:
    folder.mkdir()
    seed = save_generator(Generator((1, 8, 8), 3, 4, 4), folder / "g.safetensors").read_bytes()

    def read(raw: bytes, folder: Path) -> None:
        (folder / "g.safetensors").write_bytes(raw)
        load_generator(folder / "g.safetensors")

    return Format([seed], read, SEALED)


# Runs


class _Stop(Callback):
    def on_step(self, run: Run) -> None:
        if run.step == 2:
            raise KeyboardInterrupt


#: Runs whose checkpoints hold what others do not: pools, moments, experts' rates, codes, averages.
RUNS: dict[str, dict[str, Any]] = {
    "dm": {"optimiser": {"name": "adam", "lr": 0.05}, "ema": 0.5},
    "dsa": {},
    "idc": {},
    "frepo": {},
    "mtt": {},
    "itgan": {},
    "kip": {},
    "cafe": {},
    "haba": {},
}


def begun(method: str, folder: Path) -> Distiller:
    """Begin a run of ``method`` in ``folder`` and stop it after two steps; return what resumes it."""
    data = toy_data()
    options = {**small_overrides(method, data), **RUNS[method]}
    try:
        Distiller(method, 2, callbacks=[_Stop()], checkpoint_every=1, **options).fit(data, out=folder)
    except KeyboardInterrupt:
        return Distiller(method, 2, **options)
    raise AssertionError("the run was not stopped")


def checkpoints(method: str, folder: Path) -> Format:
    distiller = begun(method, folder)
    seed = (folder / "checkpoint.safetensors").read_bytes()

    def read(raw: bytes, there: Path) -> None:
        shutil.rmtree(there / "run", ignore_errors=True)
        shutil.copytree(folder, there / "run")
        (there / "run" / "checkpoint.safetensors").write_bytes(raw)
        load_checkpoint(there / "run" / "checkpoint.safetensors")
        distiller.fit(toy_data(), out=there / "run", resume=True)

    return Format([seed], read, either(mutations.change_bytes, mutations.change_sealed, 0.1), dear=True)


def run_documents(name: str, folder: Path) -> Format:
    """Return a file of a run that stopped, as it is resumed, reported and compared."""
    distiller = begun("dm", folder)
    whole = folder.parent / "whole"
    distiller.fit(toy_data(), out=whole, data_spec="toy", command="ddkit distill --method dm")
    rows = [{"architecture": "convnet", "accuracies": [0.5, 0.6], "mean": 0.55, "interval95": [0.5, 0.6]}]
    result = {"rows": rows, "data": "toy", "recipe": {"name": "dsa", "epochs": 3}, "label_kind": "hard", "budget": {}}
    evaluation = {"results": [{"label": "dm", "result": result}], "published": [], "command": "ddkit evaluate"}
    (whole / "evaluation.json").write_text(json.dumps(evaluation))
    point = Point(kind="dm", distilled=True, run="whole", codec=None, payload=768.0, images=3, accuracies=((0.5, 0.6),))
    other = point.model_copy(update={"kind": "random-bytes", "distilled": False, "payload": 700.0})
    drawn = Curve(data="toy", classes=3, model="convnet", recipe="dsa", points=(point, other), whole=(0.9,))
    write_kept(whole, {"a": point, "b": other}, drawn, "ddkit curve whole")
    seed = (whole / name).read_bytes()

    def read(raw: bytes, there: Path) -> None:
        shutil.rmtree(there / "run", ignore_errors=True)
        shutil.copytree(whole, there / "run")
        (there / "run" / name).write_bytes(raw)
        read_lines(there / "run" / "metrics.jsonl")
        if name == "evaluation.json":
            read_evaluation(there / "run")
        if name in ("config.json", "run.json"):
            distiller.fit(toy_data(), out=there / "run", resume=True)
            assert RunFolder(there / "run").command is not None or name == "config.json"
        else:
            comparison_table([there / "run"], baselines=True)
        write_report(there / "run")

    return Format([seed], read, mutations.change_json_text, json_bombs(seed), dear=True)


def json_bombs(seed: bytes) -> list[bytes]:
    return [
        b"[" * 10**5,
        b'{"a":' * 10**5,
        b"9" * 10**5,
        b"1" * 4400,
        b'"' + b"x" * 10**6 + b'"',
        seed * 3,
        b"\xff" * 99,
    ]


def resumed_metrics(folder: Path) -> Format:
    distiller = begun("dm", folder)
    seed = (folder / "metrics.jsonl").read_bytes()

    def read(raw: bytes, there: Path) -> None:
        shutil.rmtree(there / "run", ignore_errors=True)
        shutil.copytree(folder, there / "run")
        (there / "run" / "metrics.jsonl").write_bytes(raw)
        distiller.fit(toy_data(), out=there / "run", resume=True)

    return Format([seed], read, mutations.change_json_text, json_bombs(seed), dear=True)


# Experts


def experts(name: str, folder: Path) -> Format:
    settings = ExpertSettings(model="convnet:width=4,depth=1", epochs=2, lr=0.1, batch_size=8)
    build_buffer(toy_data(), folder, settings, 2)
    seed = (folder / name).read_bytes()

    def read(raw: bytes, there: Path) -> None:
        shutil.rmtree(there / "e", ignore_errors=True)
        shutil.copytree(folder, there / "e")
        (there / "e" / name).write_bytes(raw)
        buffer = ExpertBuffer(there / "e")
        buffer.table(), buffer.digest(), repr(buffer), buffer.verify()
        buffer.weights(0, 1)
        buffer.identity.require_data(toy_data())
        buffer.identity.require_settings(settings, "it")

    sealed = name.endswith(".safetensors")
    return Format([seed], read, SEALED if sealed else mutations.change_json_text, () if sealed else json_bombs(seed))


# YAML


YAML_PARTS = (
    "&a [1]", "*a", "!!python/object/apply:os.system ['true']", "!!binary aGk=", "!!set {a, b}", "2001-99-99",
    "[" * 400, "{a: " * 400, "- " * 400, "? [a]\n: 1", "<<: {a: 1}", "a: 1\na: 2", "1:30:99", ".inf", "9" * 5000,
    "\t", "%TAG", "!!int x",
    "'", '"\\ud800"', "|\n  x", "!!timestamp x", "null", "[]", "{}", "-1", "1e400", "x" * 3000, "\u202e", "{1: 2}",
    "0o9",
)  # fmt: skip


def change_yaml(rng: random.Random, raw: bytes) -> bytes:
    if rng.random() < 0.3:
        return mutations.change_bytes(rng, raw)
    lines = raw.decode().splitlines()
    position = rng.randrange(len(lines))
    key, colon, _ = lines[position].partition(":")
    part = rng.choice(YAML_PARTS)
    lines[position] = f"{key}: {part}" if colon and rng.random() < 0.7 else part
    return "\n".join(lines).encode()


def recipe_files(folder: Path) -> Format:
    seeds = [(recipes.FOLDER / f"{name}.yaml").read_bytes() for name in recipes.available()]
    laughs = "recipe: quickstart\na0: &a0 {x: 1}\n"
    laughs += "".join(f"a{i}: &a{i} {{p: *a{i - 1}, q: *a{i - 1}}}\n" for i in range(1, 40)) + "settings: *a39\n"
    head = "recipe: quickstart\nsettings: "
    bombs = [laughs, head + "&s {a: *s}", head + "{a: " + "[" * 9000, head + "{a: " * 3000, head + "x" * 10**6]

    def read(raw: bytes, there: Path) -> None:
        (there / "r.yaml").write_bytes(raw)
        recipe = recipes.load(there / "r.yaml")
        json.dumps(recipe.settings), recipe.source

    return Format(seeds, read, change_yaml, [bomb.encode() for bomb in bombs])


def settings_of_the_command_line(folder: Path) -> Format:
    seeds = [b"steps=5", b"optimiser.lr=0.5", b"model=convnet:width=8", b"synthesis.factor=2", b"recipe.epochs=9"]
    seeds += [b"optimiser={name: adam, lr: 0.1}", b"augmentation=none", b"optimiser.milestones=[0.5, 0.7]"]
    seeds[-1] = b"optimiser.betas=[0.9, 0.99]"

    def change(rng: random.Random, raw: bytes) -> bytes:
        if rng.random() < 0.3:
            return mutations.change_bytes(rng, raw)
        return raw.partition(b"=")[0] + b"=" + rng.choice(YAML_PARTS).encode()

    def read(raw: bytes, there: Path) -> None:
        overrides = parse_assignments([raw.decode("utf-8", "surrogateescape")])
        config = get("idc").configure(toy_data(), 1, 0, overrides)
        json.dumps(config.as_dict())

    return Format(seeds, read, change)


# Host libraries


def federated(folder: Path) -> Format:
    import pickle

    pytest.importorskip("flwr", reason="needs ddkit[federated]")
    from ddkit.integrations.federated.flower import Array, ArrayRecord, MetricRecord, RecordDict
    from ddkit.integrations.federated.wire import Limits, pack, unpack
    from tests.integrations.federated_small import TASK
    from tests.integrations.test_federated_wire import make

    limits = Limits(TASK, 10_000, 4)
    seeds = []
    for kind in ("hard", "soft"):
        for wire in ("uint8", "float16", "float32"):
            content = pack(make(kind), [5, 6, 7], wire)  # type: ignore[arg-type]
            arrays = [(name, array.data) for name, array in content.array_records["distilled"].items()]
            seeds.append(pickle.dumps((arrays, [5, 6, 7])))

    def change(rng: random.Random, raw: bytes) -> bytes:
        arrays, counts = pickle.loads(raw)
        position = rng.randrange(len(arrays))
        name, data = arrays[position]
        if rng.random() < 0.2:
            counts = mutations.change_json(rng, counts)
        elif rng.random() < 0.4:
            stream = io.BytesIO()
            shape = rng.choice([(10**9,), (2**40, 1, 8, 8), (6, 1, 8, 8), (0,), (), (-1, 4), (6, 3), (1,) * 40])
            header = {"descr": rng.choice(["|u1", "<f2", "<f4", ">f4", "|O", "<M8[s]", "<U9"]), "fortran_order": False}
            np.lib.format.write_array_header_1_0(stream, {**header, "shape": shape})
            arrays[position] = (name, stream.getvalue() + data[80:])
        else:
            arrays[position] = (name, mutations.change_bytes(rng, data))
        return pickle.dumps((arrays, counts))

    def read(raw: bytes, there: Path) -> None:
        arrays, counts = pickle.loads(raw)
        sent = {n: Array(dtype="float32", shape=(1,), stype="numpy.ndarray", data=data) for n, data in arrays}
        try:
            total = sum(counts) if isinstance(counts, list) else counts
            metrics = MetricRecord({"num-examples": total, "class-counts": counts})
        except (TypeError, ValueError, AttributeError):
            return  # Flower itself does not send it
        unpack(RecordDict({"distilled": ArrayRecord(sent), "metrics": metrics}), limits)

    return Format(seeds, read, change)


def replay_memory(folder: Path) -> Format:
    pytest.importorskip("avalanche", reason="needs ddkit[continual]")
    from ddkit.integrations.continual import state
    from ddkit.integrations.continual.incoming import Arrival, Form
    from ddkit.integrations.continual.parts import Facts, Part

    data = toy_data()
    parts = []
    for label in range(3):
        images = data.images[data.class_index[label][:2]]
        made = DistilledDataset(
            images, torch.zeros(2, dtype=torch.int64), class_names=["a"], preprocessing=data.preprocessing
        )
        parts.append(Part((label,), (label,), made))
    facts = {(0, label): Facts(seen=9, experiences=[0], how="selected") for label in range(3)}
    window = Arrival(data.images[:4], data.labels[:4], torch.zeros(4, dtype=torch.int64), 0.0)
    form = Form((1, 8, 8), data.preprocessing, False, False)
    options = {"settings": {"kind": "random"}, "updates": 1, "max_size": 6, "form": form}
    seeds = [state.dump(parts, facts, **options)]
    seeds.append(state.dump(parts, facts, window=window, window_seen={(0, 0): 4}, arrivals=1, **options))

    def read(raw: bytes, there: Path) -> None:
        state.restore(raw)

    return Format(seeds, read, SEALED)


def rankings(folder: Path) -> Format:
    from ddkit.integrations.nas import Entry, Ranking

    entries = [Entry(f"n{i}", "ok", (0.5, 0.1 * i), epochs=3, parameters=9, flags=("a",)) for i in range(3)]
    seed = Ranking(tuple(entries)).to_json().encode()

    def read(raw: bytes, there: Path) -> None:
        ranking = Ranking.from_json(raw.decode("utf-8", "replace"))
        ranking.to_json(), [entry.score for entry in ranking.entries]

    return Format([seed], read, mutations.change_json_text, json_bombs(seed))


def outcomes_of_a_ranking(folder: Path) -> Format:
    from ddkit.integrations.nas.training import Work, _outcome

    content = {"status": "ok", "accuracy": 0.5, "loss": 1.0, "seconds": 1.0, "cpu_seconds": 1.0, "image_passes": 9}

    class Known(Work):
        def key(self, task: Any) -> str:
            return "k"

    def read(raw: bytes, there: Path) -> None:
        (there / "k.json").write_bytes(raw)
        work = object.__new__(Known)
        object.__setattr__(work, "cache", there)
        work.stored(None)  # type: ignore[arg-type]

    assert _outcome(content).accuracy == 0.5
    seed = json.dumps(content).encode()
    return Format([seed], read, mutations.change_json_text, json_bombs(seed))


_MAKERS: dict[str, Callable[[Path], Format]] = {
    "artifact": artifacts,
    "coded-artifact": coded_artifacts,
    "generator": generators,
    **{f"checkpoint-{method}": functools.partial(checkpoints, method) for method in RUNS},
    **{f"run-{name}": functools.partial(run_documents, name) for name in ("config.json", "run.json", "metrics.jsonl")},
    "run-evaluation.json": functools.partial(run_documents, "evaluation.json"),
    "run-curve.json": functools.partial(run_documents, "curve.json"),
    "resumed-metrics": resumed_metrics,
    "expert": functools.partial(experts, "expert-0000.safetensors"),
    "buffer.json": functools.partial(experts, "buffer.json"),
    "recipe": recipe_files,
    "settings": settings_of_the_command_line,
    "federated": federated,
    "replay-memory": replay_memory,
    "ranking": rankings,
    "ranking-cache": outcomes_of_a_ranking,
}
NAMES = tuple(_MAKERS)
#: Left out unless slow tests are asked for: others of their kind are not.
SLOW = {
    *(f"checkpoint-{method}" for method in RUNS if method not in ("dm", "idc")),
    "run-run.json",
    "run-metrics.jsonl",
}


def make(name: str, folder: Path) -> Format:
    """Make the good files of a format in ``folder``."""
    return _MAKERS[name](folder)
