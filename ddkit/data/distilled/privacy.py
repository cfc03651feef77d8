"""What does a set say of the privacy of its records, and where may exact figures about them be written?"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddkit.base.container import MAX_HEADER_BYTES, METADATA_KEY
from ddkit.errors import ConfigError

#: The statement of a release, for machines and for people.
STATEMENT_FILES = ("privacy.json", "privacy.txt")
_ARTIFACT = "distilled.safetensors"
_UNKNOWN = "not stated"


@dataclass(frozen=True)
class Statement:
    """The privacy statement in the metadata of a set.

    Args:
        content: ``metadata["privacy"]``, as the adapter wrote it.
    """

    content: Mapping[str, Any]

    def __getitem__(self, key: str) -> str:
        """Return an entry as text."""
        value = self.content.get(key)
        if value is None:
            return _UNKNOWN
        return f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())

    @property
    def private(self) -> bool:
        """Whether the noise was secret; False after a debug seed."""
        return self.content.get("private") is not False

    @property
    def quote(self) -> str:
        """The sentence to quote."""
        return self["quote"]

    @property
    def unit(self) -> str:
        """Whose presence is hidden: a record, or a patient with all records."""
        return self["unit"] if "unit" in self.content else "one record (image and label)"

    @property
    def terms(self) -> str:
        """Epsilon, delta, adjacency and unit in one line."""
        if not self.private:
            return "NOT private: the noise came from a recorded seed"
        return f"epsilon {self['epsilon']}, delta {self['delta']}, {self['adjacency']}; unit: {self.unit}"

    def facts(self) -> list[tuple[str, str]]:
        """Return the terms of the guarantee as (name, value)."""
        terms = [
            ("Statement", self.quote),
            ("Epsilon", self["epsilon"] if self.private else "none: the noise can be subtracted"),
            ("Delta", self["delta"]),
            ("Adjacency", self["adjacency"]),
            ("Unit of privacy", self.unit),
            ("Mechanism", self["mechanism"]),
            ("Accountant", self["accountant"]),
            ("All queries to these records", f"epsilon {self['total_epsilon']} of {self['budget_epsilon']}"),
        ]
        return [(name, value) for name, value in terms if value != _UNKNOWN]

    def files(self) -> dict[str, str]:
        """Return the contents of :data:`STATEMENT_FILES`."""
        text = str(self.content.get("text") or "\n".join(f"{name}: {value}" for name, value in self.facts()))
        return dict(zip(STATEMENT_FILES, (json.dumps(dict(self.content), indent=2) + "\n", text + "\n"), strict=True))

    def card(self, data_files: str) -> str:
        """Return a dataset card (README.md of the Hugging Face Hub) with the terms.

        Args:
            data_files: which files hold the data.
        """
        rows = "".join(f"| {name} | {value.replace('|', '/')} |\n" for name, value in self.facts()[1:])
        return (
            f"---\nconfigs:\n- config_name: default\n  data_files: {data_files}\n---\n\n# Privacy\n\n{self.quote}\n\n"
            f"| term | value |\n|---|---|\n{rows}\n`privacy.txt` and `privacy.json` hold the whole statement.\n"
        )


def statement_of(metadata: Mapping[str, Any]) -> Statement | None:
    """Return the privacy statement in the metadata of a set; None for one that has none."""
    content = metadata.get("privacy")
    return Statement(content) if isinstance(content, Mapping) and content else None


def release_of(path: Path | str) -> Path | None:
    """Return the outermost folder around ``path``, itself included, that holds a private release; None outside."""
    absolute = Path(path).resolve()
    found = [folder for folder in (absolute, *absolute.parents) if _is_release(folder)]
    return found[-1] if found else None


def figures_folder(folder: Path | str) -> Path:
    """Return where exact figures about a run go: its folder, or one beside a private release.

    An evaluation tests on records without noise, so that its figures are not covered by epsilon and must not be
    published with the release by mistake.
    """
    release = release_of(folder)
    if release is None:
        return Path(folder)
    return release.with_name(f"{release.name}-evaluation") / Path(folder).resolve().relative_to(release)


def folder_for_figures(folder: Path | str) -> Path:
    """Return :func:`figures_folder`, and warn with the reason where it is another folder."""
    chosen = figures_folder(folder)
    if chosen != Path(folder):
        warnings.warn(
            f"exact figures about records are not covered by the epsilon of '{folder}', a private release: they are "
            f"kept outside of it, in '{chosen}'",
            stacklevel=3,
        )
    return chosen


def refuse_inside_release(path: Path | str) -> None:
    """Refuse to write exact figures into a private release.

    Raises:
        ConfigError: naming the release.
    """
    release = release_of(path)
    if release is not None:
        raise ConfigError(
            f"'{path}' lies in the private release '{release}', and exact figures about records are not covered by its "
            f"epsilon: choose a place outside of it"
        )


def _is_release(folder: Path) -> bool:
    return (folder / STATEMENT_FILES[0]).is_file() or _is_signed(folder / _ARTIFACT)


def _is_signed(artifact: Path) -> bool:
    """Say whether the header of an artifact has a privacy statement; one that cannot be read has none."""
    try:
        with artifact.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length)) if length <= MAX_HEADER_BYTES else {}
        return bool(json.loads(header["__metadata__"][METADATA_KEY])["content"]["metadata"].get("privacy"))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False
