"""Does YAML from strangers cost seconds at most and end in a value or in one line?"""

from __future__ import annotations

import time
from typing import Any

import pytest

from ddkit.base.config import parse_assignments
from ddkit.base.yaml_text import MAX_LENGTH, NotYAMLError, parse_yaml
from ddkit.errors import ConfigError

LAUGHS = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
CHAIN = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 200))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "stands for more than 100000 values"),
        (CHAIN, "more than 100 lists or mappings within each other"),
        ("[" * 5000, "more than 100 lists or mappings within each other"),
        ("{a: " * 5000, "more than 100 lists or mappings within each other"),
        ("a: &s {a: *s}", "an alias of what it is part of"),
        ("day: 2001-99-99", "line 1 holds a timestamp"),
        ("a: 1\nday: 2001-01-01", "line 2 holds a timestamp"),
        ("!!python/object/apply:os.system [ls]", r"holds a os\.system"),
        ("!!binary aGk=", "holds a binary"),
        ("!!int x", "a value that cannot be read"),
        ("9" * 5000, "a value that cannot be read"),
        ("a: 1\nb: 2\na: 3", "a repeated key"),
        ("{[1]: 2}", "unhashable"),
        ("x" * (MAX_LENGTH + 1), "the most is 200000"),
    ],
)
def test_what_no_setting_is_ends_in_one_line(text: str, message: str) -> None:
    began = time.process_time()
    with pytest.raises(ConfigError, match=message) as error:
        parse_yaml(text)
    assert "\n" not in str(error.value) and time.process_time() - began < 5


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: &x {b: 1}\nc: *x", {"a": {"b": 1}, "c": {"b": 1}}),
        ("a: &x {b: 1, d: 4}\nc: {<<: *x, b: 2}", {"a": {"b": 1, "d": 4}, "c": {"b": 2, "d": 4}}),
        ("{10: [1, 2.5, true, null, text]}", {10: [1, 2.5, True, None, "text"]}),
        ("'2001-01-01'", "2001-01-01"),
        ("=", "="),
    ],
)
def test_settings_are_read(text: str, value: Any) -> None:
    assert parse_yaml(text) == value


def test_text_that_is_no_yaml_is_told_apart() -> None:
    with pytest.raises(NotYAMLError):
        parse_yaml("a: b: c")
    assert parse_assignments(["a=b: c: d"]) == {"a": "b: c: d"}


@pytest.mark.parametrize(
    "text", ["a=" + "[" * 3000, "a=2001-99-99", "a=!!int x", "a=" + "9" * 5000, "a." * 500 + "b=1", "a=" + "x" * 10**6]
)
def test_assignments_of_no_setting_are_named_shortly(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^'a.*is no setting: ") as error:
        parse_assignments([text])
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
