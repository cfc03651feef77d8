"""Which YAML does ddkit read? Numbers, text, truth values, null, lists and mappings, in bounded time.

No setting is a date or a set, so tags and dates are refused, and so are repeated keys. Aliases may repeat a value, but
not so often that a kilobyte stands for terabytes.
"""

from __future__ import annotations

from typing import Any

import yaml

from ddkit.base.documents import MAX_DEPTH
from ddkit.errors import ConfigError

#: Most characters: the largest recipe of ddkit has a twentieth of it, and reading them takes a few seconds.
MAX_LENGTH = 200_000

#: Most values, repeated ones counted each time.
MAX_VALUES = 100_000

_TOO_DEEP = f"it has more than {MAX_DEPTH} lists or mappings within each other"
_CORE = ("null", "bool", "int", "float", "str", "seq", "map")


class NotYAMLError(ConfigError):
    """Text that is no YAML at all."""


class _Loader(yaml.SafeLoader):
    """The safe loader without boundless aliases, tags beyond the core ones, dates and repeated keys."""

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

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._extents: dict[int, tuple[int, int]] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node, knowing how much it stands for: an alias counts for all that it repeats."""
        is_alias, line = self.check_event(yaml.AliasEvent), self.peek_event().start_mark.line + 1
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ConfigError(_TOO_DEEP)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias and id(node) not in self._extents:
            raise ConfigError(f"line {line} holds an alias of what it is part of: write the value out")
        self._extents.setdefault(id(node), self._extent(node))
        return node

    def _extent(self, node: Any) -> tuple[int, int]:
        """Return values and levels of a node whose parts have been composed."""
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        parts = [part for pair in pairs for part in pair]
        parts += node.value if isinstance(node, yaml.SequenceNode) else []
        extents = [self._extents[id(part)] for part in parts]
        values, levels = 1 + sum(extent[0] for extent in extents), 1 + max((extent[1] for extent in extents), default=0)
        if values > MAX_VALUES:
            raise ConfigError(f"it stands for more than {MAX_VALUES} values: write fewer aliases (*name)")
        if levels > MAX_DEPTH:
            raise ConfigError(_TOO_DEEP)
        return values, levels

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Refuse a key that is given twice; of a mapping that is merged in (<<), keys may be given anew."""
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) != len(keys):
            raise ConfigError(f"line {node.start_mark.line + 1} begins a mapping with a repeated key: write each once")
        return super().construct_mapping(node, deep)


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
