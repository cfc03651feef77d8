"""Is whatever JSON may hold read, or refused as a ValueError, and is a damaged log read as far as it is whole?"""

from __future__ import annotations

from pathlib import Path

import pytest

from ddkit.base.documents import MAX_DEPTH, parse_json, read_json_object, read_metrics


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 10**5,
        b"[" * (MAX_DEPTH + 2) + b"]" * (MAX_DEPTH + 2),
        b"9" * 5000,
        b'"\\ud800"',
        b"x",
    ],
)
def test_what_is_no_json_is_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(raw)


def test_json_is_read_from_text_and_bytes() -> None:
    nested = "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    assert parse_json(b'{"a": [1, "\\u00e9"]}') == parse_json('{"a": [1, "\u00e9"]}') == {"a": [1, "\u00e9"]}
    assert parse_json(nested)


def test_an_object_is_needed(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(ValueError, match="holds a JSON list where an object is needed"):
        read_json_object(tmp_path / "a.json")


def test_damaged_lines_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n\n\xff\n{"step": true}\n{"step": 1e999}\n{"step": 2.0, "loss": 1}\n{"st')
    assert read_metrics(path) == ({1: {"step": 1}, 6: {"step": 2.0, "loss": 1}}, [3, 4, 5, 7])
    assert read_metrics(tmp_path / "none") == ({}, [])
