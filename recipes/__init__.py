"""End-to-end jobs: one Python file and one YAML file each, run by ``ddkit recipe run NAME``, copied to be changed."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from ddkit.base.config import merge
from ddkit.base.documents import read_json_object
from ddkit.base.files import temporary_pattern
from ddkit.base.lock import FILE_NAME as LOCK_NAME
from ddkit.base.lock import locked
from ddkit.base.yaml_text import MAX_LENGTH, parse_yaml
from ddkit.data.distilled.privacy import refuse_inside_release
from ddkit.errors import (
    ConfigError,
    DDKitError,
    InterruptedRunError,
    MissingExtraError,
    UnknownNameError,
    shortened,
    unknown_name,
)
from ddkit.recipes.job import FILE_NAME, Job

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Recipe:
    """A recipe as its file describes it.

    Args:
        name: of the recipe.
        title: one line on what it does.
        expected: how long it takes, on what.
        settings: everything that can be overridden.
        texts: what its page explains, by heading.
        path: of the YAML file.
        code: the Python file that runs: the one beside the YAML file, or that of ddkit's recipe ``name``.
    """

    name: str
    title: str
    expected: str
    settings: dict[str, Any]
    texts: dict[str, str]
    path: Path
    code: Path

    def run(
        self,
        overrides: Mapping[str, Any],
        out: Path,
        report_progress: Callable[[str], None] = lambda _: None,
        command: str | None = None,
        resume: bool = False,
    ) -> dict[str, Any]:
        """Run the job: this executes :attr:`code`.

        Args:
            overrides: settings laid over those of the file.
            out: folder for runs, table and report; must be new or empty, unless ``resume``.
            report_progress: called with a line of text at every stage.
            command: what the user typed, kept for the report; None describes the overrides.
            resume: continue the run in ``out``, or start one where there is none yet.

        Returns:
            ``table`` (rows), ``report`` (path), ``seconds``.

        Raises:
            ConfigError: an unknown or missing setting, a folder that is not empty or holds a run with other settings,
                or code that cannot be loaded.
        """
        if self.is_ours:
            missing = sorted(set(load(self.name).settings) - set(self.settings))
            if missing:
                raise ConfigError(
                    f"recipe '{self.path}' lacks the setting {', '.join(missing)}: "
                    f"compare it with `ddkit recipe show {self.name}`"
                )
        for key in overrides:
            if key not in self.settings:
                raise unknown_name(f"setting of recipe '{self.name}'", key, self.settings)
        values = merge(self.settings, _text_keys(overrides))
        self._started_by(out, values, resume)
        refuse_inside_release(out)
        report_progress(f"running {self.code}")
        module = self._module()
        if values.get("executor") == "ray" and not self.is_ours:
            _sent_by_value(module)
        if command is None:
            changes = [f"--set {shlex.quote(f'{key}={json.dumps(value)}')}" for key, value in overrides.items()]
            command = " ".join(["ddkit recipe run", shlex.quote(self.source), *changes])
        try:
            with locked(out):
                command = self._started_by(out, values, resume) or command  # now that nobody else can fill it
                return module.run(Job(self.name, values, self.texts, out, report_progress, command))
        except (InterruptedRunError, KeyboardInterrupt) as stop:
            what = str(stop).partition(": go on")[0] or "interrupted"
            raise InterruptedRunError(f"{what}; the recipe goes on with the same command and --resume") from None

    def _started_by(self, out: Path, values: Mapping[str, Any], resume: bool) -> str | None:
        """Return the command that started the run in ``out``; None for a folder that is new or empty.

        Raises:
            ConfigError: the folder may not be written to.
        """
        if not out.exists():
            return None
        path = out / FILE_NAME
        if not out.is_dir() or set(out.iterdir()) - {out / LOCK_NAME, *out.glob(temporary_pattern(path))}:
            if not path.is_file():
                raise ConfigError(f"'{out}' is not empty: choose another --out, nothing was overwritten")
            if not resume:
                raise ConfigError(
                    f"'{out}' is not empty: add --resume to continue the run in it, or choose another --out, nothing "
                    f"was overwritten"
                )
            return self._stored_command(path, values)
        return None

    def _stored_command(self, path: Path, values: Mapping[str, Any]) -> str:
        try:
            stored = read_json_object(path)
            recipe, settings, command = str(stored["recipe"]), dict(stored["settings"]), str(stored["command"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"'{path}' is damaged ({shortened(str(error))}): choose another --out") from None
        if recipe != self.name:
            raise ConfigError(f"'{path.parent}' holds a run of recipe '{recipe}': choose another --out")
        for key in sorted({*settings, *values}):
            then, now = (shortened(json.dumps(one.get(key))) for one in (settings, values))
            if settings.get(key) != values.get(key):
                raise ConfigError(
                    f"'{path.parent}' holds a run with {key}={then}, not {now}: repeat the settings of "
                    f"`{command}`, or choose another --out"
                )
        return command

    def _module(self) -> Any:
        """Load :attr:`code`."""
        if self.is_ours:
            return import_module(f"ddkit.recipes.{self.code.stem}")
        spec = spec_from_file_location(f"ddkit_recipe_{self.code.stem}", self.code)
        assert spec is not None and spec.loader is not None
        module = module_from_spec(spec)
        sys.modules[spec.name] = module
        try:
            spec.loader.exec_module(module)
        except DDKitError:
            raise
        except Exception as error:
            raise ConfigError(
                f"cannot load '{self.code}': {type(error).__name__}: {shortened(str(error), 300)}; mend it, or take it "
                f"away to run ddkit's own code"
            ) from error
        if not callable(getattr(module, "run", None)):
            raise ConfigError(f"'{self.code}' has no function run(job): compare it with a `ddkit recipe copy`")
        return module

    @property
    def is_ours(self) -> bool:
        """Whether the code is ddkit's."""
        return self.code.parent == FOLDER

    @property
    def source(self) -> str:
        """What ``ddkit recipe run`` takes: the name of a recipe of ddkit's own, else the path of the file."""
        return self.name if self.path.parent == FOLDER else str(self.path)


def available() -> list[str]:
    """Return the names of the recipes that come with ddkit."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name: str | Path) -> Recipe:
    """Read a recipe by name, or from a YAML file of one's own. Its code is not run, nor imported.

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
    texts = content.get("page") or {}
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise ConfigError(f"'page' of recipe '{path}' must map headings to texts")
    job, code = str(content.get("recipe", path.stem)), path.with_suffix(".py")
    if not code.is_file():
        if job not in available():
            unknown = unknown_name("recipe", job, available())
            raise UnknownNameError(f"{unknown}; nor is there a '{code}' of its own")
        code = FOLDER / f"{job}.py"
    title, expected = str(content.get("title", "")), str(content.get("expected", ""))
    return Recipe(job, title, expected, _text_keys(content["settings"]), _text_keys(texts), path, code)


def _text_keys(value: Any) -> Any:
    """Return ``value`` with text keys at every depth: YAML reads the key 10 as a number, --set a.10.b=1 as text."""
    return {str(k): _text_keys(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def _sent_by_value(module: Any) -> None:
    """Let Ray send the code of a module whole: its workers cannot import it by name."""
    try:
        from ray import cloudpickle
    except ImportError:
        raise MissingExtraError("the Ray executor", "ray") from None
    cloudpickle.register_pickle_by_value(module)


def copy(name: str, folder: Path) -> Path:
    """Copy recipe ``name`` into ``folder``, to be changed and run: its YAML file, its code, and its data if it has any.

    Returns:
        The path of the YAML file.

    Raises:
        ConfigError: a file of that name is there already, or the folder cannot be written.
    """
    recipe = load(name)
    target = folder / recipe.path.name
    sources = {target: recipe.path, target.with_suffix(".py"): recipe.code}
    sources |= {folder / data.name: data for data in recipe.code.parent.glob(f"{recipe.code.stem}_*.csv")}
    for path in sources:
        if path.exists():
            raise ConfigError(f"'{path}' exists: choose another folder, nothing was overwritten")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, source in sources.items():
            shutil.copyfile(source, path)
    except OSError as error:
        raise ConfigError(f"cannot write '{target}': {error.strerror}; choose another folder") from None
    return target
