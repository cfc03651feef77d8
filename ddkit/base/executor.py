"""Where independent pieces of work run: in this process or on Ray."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, TypeVar

from ddkit.errors import ConfigError, DDKitError, MissingExtraError, RunError, unknown_name

Item = TypeVar("Item")
Result = TypeVar("Result")


class Executor(ABC):
    """Maps a function over independent items (repeats, expert trajectories, candidates, sweeps).

    Use it as a context manager, or call :meth:`close`, to free what it started.
    """

    @abstractmethod
    def map(self, fn: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Return ``[fn(item) for item in items]``, in the order of the items.

        Args:
            fn: a picklable function. Bind large shared arguments with ``functools.partial``: an executor
            sends
                ``fn`` once, and each item once.
            items: the items.

        Raises:
            DDKitError: what a task raised, with its own text; another error becomes a :class:`RunError` when
            the
                task ran in another process.
        """

    def close(self) -> None:
        """Free what the executor started; it may be called twice."""

    def __enter__(self) -> Executor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class InProcess(Executor):
    """Runs the items one after the other in this process."""

    def map(self, fn: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Return ``[fn(item) for item in items]``."""
        return [fn(item) for item in items]


class RayExecutor(Executor):
    """Runs the items as Ray tasks, each with as many threads as it has CPUs.

    Args:
        address: address of an existing cluster ("auto", "ray://host:port"); None starts a local Ray, or uses
            the one this process is already connected to.
        cpus_per_task: CPUs that a task reserves.
        gpus_per_task: GPUs, or a fraction of one, that a task reserves.

    Raises:
        MissingExtraError: Ray is not installed.
        ConfigError: no CPU per task, or a negative number of GPUs.
        RunError: the cluster cannot be reached.
    """

    def __init__(self, address: str | None = None, cpus_per_task: int = 1, gpus_per_task: float = 0.0) -> None:
        if cpus_per_task < 1:
            raise ConfigError(f"cpus_per_task={cpus_per_task}: a task needs at least 1 CPU")
        if gpus_per_task < 0:
            raise ConfigError(f"gpus_per_task={gpus_per_task}: give 0 or more")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry unless the user asked for it
        try:
            import ray
        except ImportError:
            raise MissingExtraError("the Ray executor", "ray") from None
        self._ray: Any = ray
        self._started = not ray.is_initialized()
        if self._started:
            try:
                ray.init(address=address, include_dashboard=None if address else False, log_to_driver=False)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise RunError(
                    f"cannot reach Ray at '{address or 'local'}': {str(error).splitlines()[0]}; "
                    "check the address, or leave it out to start a local Ray"
                ) from error
        self._call = ray.remote(num_cpus=cpus_per_task, num_gpus=gpus_per_task)(_call)

    def map(self, fn: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Run ``fn`` on every item as a Ray task; return the results in the order of the items."""
        shared = self._ray.put(fn)
        pending = [self._call.remote(shared, item) for item in items]
        try:
            return self._ray.get(pending)
        except self._ray.exceptions.RayTaskError as error:
            for reference in pending:
                self._ray.cancel(reference)
            cause = error.cause
            if isinstance(cause, DDKitError):
                raise cause from None
            raise RunError(f"a Ray task failed: {type(cause).__name__}: {cause}") from error
        except self._ray.exceptions.RayError as error:
            raise RunError(f"Ray lost a task: {str(error).splitlines()[0]}; repeat the run") from error

    def close(self) -> None:
        """Stop the local Ray, or leave the cluster, when this executor connected to it."""
        if self._started:
            self._started = False
            self._ray.shutdown()


def _call(fn: Callable[[Any], Any], item: Any) -> Any:
    return fn(item)


_EXECUTORS: dict[str, Callable[..., Executor]] = {"local": InProcess, "ray": RayExecutor}


def executor(name: str, **options: Any) -> Executor:
    """Return the executor called ``name``: "local" (in this process) or "ray".

    Args:
        name: its name.
        options: arguments of :class:`RayExecutor` for "ray"; none for "local".

    Raises:
        UnknownNameError: there is no executor of that name.
        ConfigError: options for an executor that takes none.
    """
    if name not in _EXECUTORS:
        raise unknown_name("executor", name, _EXECUTORS)
    try:
        return _EXECUTORS[name](**options)
    except TypeError:
        raise ConfigError(
            f"executor '{name}' does not take {', '.join(options)}; only 'ray' has options "
            "(address, cpus_per_task, gpus_per_task)"
        ) from None
