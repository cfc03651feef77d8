"""End-to-end jobs: one YAML file each, read from top to bottom, run by ``ddkit recipe run NAME``."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ddkit.base.config import merge
from ddkit.base.lock import FILE_NAME as LOCK_NAME
from ddkit.base.lock import locked
from ddkit.base.yaml_text import MAX_LENGTH, parse_yaml
from ddkit.data.distilled.privacy import refuse_inside_release
from ddkit.errors import ConfigError, InterruptedRunError, shortened, unknown_name

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Recipe:
    """A recipe as its file describes it.

    Args:
        name: of the job that runs it.
        title: one line on what it does.
        expected: how long it takes, on what.
        settings: everything that can be overridden.
        path: of the file.
    """

    name: str
    title: str
    expected: str
    settings: dict[str, Any]
    path: Path

    def run(
        self,
        overrides: Mapping[str, Any],
        out: Path,
        report_progress: Callable[[str], None] = lambda _: None,
        command: str | None = None,
    ) -> dict[str, Any]:
        """Run the job.

        Args:
            overrides: settings laid over those of the file.
            out: folder for runs, table and report; must be new or empty.
            report_progress: called with a line of text at every stage.
            command: what the user typed, kept for the report; None describes the overrides.

        Returns:
            ``table`` (rows), ``report`` (path), ``seconds``.

        Raises:
            ConfigError: an unknown or missing setting, or a folder that is not empty.
        """
        missing = sorted(set(load(self.name).settings) - set(self.settings))
        if missing:
            raise ConfigError(
                f"recipe '{self.path}' lacks the setting {', '.join(missing)}: "
                f"compare it with `ddkit recipe show {self.name}`"
            )
        for key in overrides:
            if key not in self.settings:
                raise unknown_name(f"setting of recipe '{self.name}'", key, self.settings)
        self._require_empty(out)
        refuse_inside_release(out)
        module = import_module(f"ddkit.recipes.{self.name.replace('-', '_')}")
        if command is None:
            changes = [f"--set {shlex.quote(f'{key}={json.dumps(value)}')}" for key, value in overrides.items()]
            command = " ".join(["ddkit recipe run", shlex.quote(self.source), *changes])
        try:
            with locked(out):
                self._require_empty(out)  # now that nobody else can fill it
                return module.run(merge(self.settings, _text_keys(overrides)), out, report_progress, command)
        except InterruptedRunError as stop:
            raise InterruptedRunError(f"{stop}; the recipe as a whole starts anew with another --out") from None

    @staticmethod
    def _require_empty(out: Path) -> None:
        if out.exists() and (not out.is_dir() or any(path.name != LOCK_NAME for path in out.iterdir())):
            raise ConfigError(f"'{out}' is not empty: choose another --out, nothing was overwritten")

    @property
    def source(self) -> str:
        """What ``ddkit recipe run`` takes: the name of a recipe of ddkit's own, else the path of the file."""
        return self.name if self.path.parent == FOLDER else str(self.path)


def available() -> list[str]:
    """Return the names of the recipes that come with ddkit."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name: str | Path) -> Recipe:
    """Read a recipe by name, or from a YAML file of one's own (a copy made by ``ddkit recipe copy``).

    Raises:
        UnknownNameError: no such recipe; the nearest one is suggested.
        ConfigError: the file cannot be read or lacks a field.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        if str(name) not in available():
            raise unknown_name("recipe", str(name), available())
        path = FOLDER / f"{name}.yaml"
    try:
        if path.stat().st_size > MAX_LENGTH:
            raise ConfigError(f"it has {path.stat().st_size} bytes, the most is {MAX_LENGTH}")
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        reason = error.strerror if isinstance(error, OSError) else shortened(str(error), 400)
        raise ConfigError(f"cannot read recipe '{path}': {reason}; check the path and the file") from None
    if not isinstance(content, dict) or not isinstance(content.get("settings"), dict):
        raise ConfigError(f"recipe '{path}' needs the fields recipe, title, expected and settings (a mapping)")
    job = str(content.get("recipe", path.stem))
    if job not in available():
        raise unknown_name("recipe", job, available())
    title, expected = str(content.get("title", "")), str(content.get("expected", ""))
    return Recipe(job, title, expected, _text_keys(content["settings"]), path)


def _text_keys(value: Any) -> Any:
    """Return ``value`` with text keys at every depth: YAML reads the key 10 as a number, --set a.10.b=1 as text."""
    return {str(k): _text_keys(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def copy(name: str, folder: Path) -> Path:
    """Copy the file of recipe ``name`` into ``folder``, to be edited and run by path.

    Raises:
        ConfigError: a file of that name is there already, or the folder cannot be written.
    """
    recipe = load(name)
    target = folder / recipe.path.name
    if target.exists():
        raise ConfigError(f"'{target}' exists: choose another folder, nothing was overwritten")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(recipe.path, target)
    except OSError as error:
        raise ConfigError(f"cannot write '{target}': {error.strerror}; choose another folder") from None
    return target
