"""Which YAML does ddkit read? Numbers, text, truth values, null, lists and mappings, written out, in bounded time.

Aliases, tags, dates and repeated keys are left out: an alias bomb of a kilobyte stands for terabytes, and no setting is
a date or a set.
"""

from __future__ import annotations

from typing import Any

import yaml

from ddkit.documents import MAX_DEPTH
from ddkit.errors import ConfigError

#: Most characters: the largest recipe of ddkit has a twentieth of it, and reading them takes a few seconds.
MAX_LENGTH = 200_000

_CORE = ("null", "bool", "int", "float", "str", "seq", "map")


class NotYAMLError(ConfigError):
    """Text that is no YAML at all."""


class _Loader(yaml.SafeLoader):
    """The safe loader without aliases, tags of Python or YAML beyond the core ones, dates and repeated keys."""

    # Copies: those of the parent are shared by everyone who imports yaml.
    yaml_constructors = {  # noqa: RUF012
        tag: build
        for tag, build in yaml.SafeLoader.yaml_constructors.items()
        if tag is not None and tag.removeprefix("tag:yaml.org,2002:") in _CORE
    }
    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":value")]  # "=" is text
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ConfigError("it uses an alias (*name): write the value out")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ConfigError(f"it has more than {MAX_DEPTH} lists or mappings within each other")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        pairs = len(node.value)
        mapping = super().construct_mapping(node, deep)
        if len(mapping) != pairs:
            raise ConfigError(
                f"line {node.start_mark.line + 1} repeats a key, or merges mappings (<<): write each once"
            )
        return mapping


def _refuse(loader: Any, node: Any) -> Any:
    kind = node.tag.rpartition(":")[2].rpartition("/")[2]
    raise ConfigError(f"line {node.start_mark.line + 1} holds a {kind}, which no setting is: write text in quotes")


_Loader.yaml_constructors[None] = _refuse


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        NotYAMLError: the text is no YAML.
        ConfigError: it is longer, deeper or of another kind than settings are.
    """
    if len(text) > MAX_LENGTH:
        raise ConfigError(f"it has {len(text)} characters, the most is {MAX_LENGTH}")
    try:
        return yaml.load(text, _Loader)
    except ConfigError:
        raise
    except yaml.constructor.ConstructorError as error:
        raise ConfigError(f"it holds what no setting is ({error.problem})") from None
    except yaml.YAMLError as error:
        raise NotYAMLError(" ".join(str(error).split())) from None
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError) as error:
        raise ConfigError(f"it holds a value that cannot be read ({type(error).__name__}: {error})") from None
