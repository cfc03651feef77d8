"""How is a good file turned into a hostile one? Every change follows from one ``random.Random``."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

INTERESTING = (b"\x00", b"\xff", b"\x80", b"\n", b"{", b"[", b'"', b"NaN", b"-1", b"1e999", b"\xed\xa0\x80", b"9" * 40)


def deep(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


def hostile_value(rng: random.Random) -> Any:
    """Return a JSON value of a wrong type, size or depth."""
    scalars = [None, True, False, 0, 1, -1, 2, 3.5, -0.0, 2**31, 2**53, 2**63, -(2**63), 10**30, 1e308, 5e-324]
    texts = [
        "",
        "1",
        "nan",
        "x" * 300,
        "../../etc/passwd",
        "\u202e",
        "a\nb",
        "\x00",
        "pixels",
        "gan",
        "convnet:width=3",
    ]
    others = [[], {}, [[]], [0], [1, 2, 3], {"a": 1}, {"name": "x"}, deep(20), deep(150), list(range(500)), [None] * 7]
    return copy.deepcopy(rng.choice(rng.choice([scalars, texts, others])))


def places(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [prefix]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*prefix, key))
    return found


def change_json(rng: random.Random, value: Any) -> Any:
    """Replace, remove, repeat, scale or swap one place of a JSON value."""
    value, (path, other) = copy.deepcopy(value), (rng.choice(places(value)) for _ in range(2))
    if not path:
        return hostile_value(rng) if rng.random() < 0.1 else change_inside(rng, value, path, other)
    return change_inside(rng, value, path, other)


def change_inside(rng: random.Random, value: Any, path: tuple[Any, ...], other: tuple[Any, ...]) -> Any:
    if not path:
        return value
    parent, key = get(value, path[:-1]), path[-1]
    kind = rng.randrange(6)
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent[key], list):
        parent[key] = parent[key] * rng.choice([0, 2, 50])
    elif kind == 2 and type(parent[key]) in (int, float):
        parent[key] = rng.choice([-1, 0.5, 2, 1000, 10**12]) * parent[key] + rng.choice([-1, 0, 1])
    elif kind == 3 and isinstance(parent, dict):
        parent[rng.choice(["extra", "", "name", "shape", "step", "__class__"])] = parent[key]
    elif kind == 4 and other and other != path and path[: len(other)] != other and other[: len(path)] != path:
        parent[key] = copy.deepcopy(get(value, other))
    else:
        parent[key] = hostile_value(rng)
    return value


def get(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def change_bytes(rng: random.Random, raw: bytes) -> bytes:
    """Flip, cut, insert, repeat, blank or append bytes."""
    changed = bytearray(raw)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        start = rng.randrange(len(changed) + 1)
        stop = min(len(changed), start + rng.choice([1, 2, 8, 64, 4096]))
        kind = rng.randrange(6)
        if kind == 0 and start < len(changed):
            changed[start] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del changed[start:stop]
        elif kind == 2:
            changed[start:start] = rng.choice(INTERESTING)
        elif kind == 3:
            changed[start:start] = changed[start:stop] * rng.choice([1, 3])
        elif kind == 4:
            changed[start:stop] = bytes(len(changed[start:stop]))
        else:
            del changed[rng.randrange(len(changed) + 1) :]
    return bytes(changed)


def change_tensors(rng: random.Random, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove, rename, reshape, cast, enlarge or overwrite one tensor."""
    changed, name = dict(tensors), rng.choice(sorted(tensors))
    tensor, kind = changed[name], rng.randrange(8)
    if kind == 0:
        del changed[name]
    elif kind == 1:
        changed[rng.choice([name + "x", "stored.labels", "stored.images", "0", "999"])] = changed.pop(name)
    elif kind == 2:
        changed[name] = tensor.flatten()[: rng.choice([1, 2, 7])]
    elif kind == 3:
        changed[name] = tensor[None] if tensor.dim() < 7 and rng.random() < 0.5 else tensor.reshape(-1)
    elif kind == 4 and tensor.dim():
        changed[name] = torch.cat([tensor] * rng.choice([2, 3])) if rng.random() < 0.5 else tensor[:-1]
    elif kind == 5:
        changed[name] = tensor.to(rng.choice([torch.float64, torch.int64, torch.uint8, torch.float16, torch.bfloat16]))
    elif kind == 6:
        changed[name] = torch.full_like(tensor, rng.choice([0, 1, 255, 100]))
    elif tensor.is_floating_point():
        most = min(1e38, torch.finfo(tensor.dtype).max)
        changed[name] = torch.full_like(tensor, rng.choice([most, -most, 1e-45]))
    return {name: tensor for name, tensor in changed.items() if tensor.numel()} or tensors


def opened(raw: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and document of a sealed file."""
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    return safetensors.torch.load(raw), json.loads(header["__metadata__"]["ddkit"])


def sealed(tensors: dict[str, Tensor], document: Any) -> bytes:
    """Write a file as an attacker would: any content, and a checksum that matches."""
    if isinstance(document, dict):
        document = {**document, "checksum": "0" * 64}
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    owned = {name: torch.clone(tensor, memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    blank = safetensors.torch.save(owned, {"ddkit": text})
    return blank.replace(b"0" * 64, hashlib.sha256(blank).hexdigest().encode(), 1)


def change_sealed(rng: random.Random, raw: bytes) -> bytes:
    """Change the content or the tensors of a sealed file, and seal it again."""
    tensors, document = opened(raw)
    if rng.random() < 0.4:
        tensors = change_tensors(rng, tensors)
    if rng.random() < 0.7:
        for _ in range(rng.choice([1, 1, 2])):
            document = {**document, "content": change_json(rng, document["content"])}
    return sealed(tensors, document)


def change_json_text(rng: random.Random, raw: bytes) -> bytes:
    """Change a JSON text by its structure or by its bytes."""
    if rng.random() < 0.3:
        return change_bytes(rng, raw)
    lines = raw.splitlines() if raw.count(b"\n{") else [raw]
    position = rng.randrange(len(lines))
    lines[position] = json.dumps(change_json(rng, json.loads(lines[position]))).encode()
    return b"\n".join(lines) + b"\n"
