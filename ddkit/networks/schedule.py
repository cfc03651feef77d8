"""When is the synthetic set updated, when is the network trained, when is it left: the dynamic schedule of CAFE."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from ddkit.base.ranges import Inner, in_range
from ddkit.errors import ConfigError


class DynamicSchedule:
    """Decides from the accuracy of a network on real data (Wang et al. 2022, CVPR, arXiv 2203.01531).

    The range of a window is the difference between the largest and the smallest of the last ``window`` accuracies, once
    there are as many. The synthetic set is updated while the accuracy still changes from update to update (range at
    least ``outer_threshold``); between two updates the network is trained until its accuracy has changed (range above
    ``inner_threshold``). Outer windows are new for every network, inner windows after every update.

    Deviation: the authors' loops have no end when a network fits the synthetic set, as its accuracy then stays the
    same. Both are capped here, and hitting either cap leaves the network.

    Args:
        window: accuracies in a window, at least 2.
        outer_threshold: lambda_1 in (0, 1); a network whose accuracy moves less is left.
        inner_threshold: lambda_2 in (0, 1); a network whose accuracy moved more has been trained enough.
        max_inner_epochs: cap of the epochs between two updates, at least ``window``.
        max_updates: cap of the updates that one network serves, at least ``window``.
    """

    @in_range("networks")
    def __init__(
        self,
        window: Annotated[int, Field(ge=2)] = 10,
        outer_threshold: Inner = 0.04,
        inner_threshold: Inner = 0.03,
        max_inner_epochs: int = 100,
        max_updates: int = 200,
    ) -> None:
        for name, cap in (("max_inner_epochs", max_inner_epochs), ("max_updates", max_updates)):
            if cap < window:
                raise ConfigError(f"networks.{name}={cap} must be at least networks.window={window}, or none is filled")
        self.window, self.outer_threshold, self.inner_threshold = window, outer_threshold, inner_threshold
        self.max_inner_epochs, self.max_updates = max_inner_epochs, max_updates
        self.counts: Counter[str] = Counter()
        self.restart()

    def restart(self) -> None:
        """Begin with a new network."""
        self.updates = 0
        self.outer: list[float] = []

    def updated(self, accuracy: Callable[[], float], train: Callable[[], None]) -> bool:
        """React to an update of the synthetic set.

        Args:
            accuracy: measures the accuracy of the network on real data.
            train: trains the network for one epoch on the synthetic set.

        Returns:
            whether the network stays; if not, its training has ended.
        """
        self.updates += 1
        self.counts["updates"] += 1
        self.outer = [*self.outer, accuracy()][-self.window :]
        if len(self.outer) == self.window and _range(self.outer) < self.outer_threshold:
            return False
        if self.updates == self.max_updates:
            self.counts["update_caps"] += 1
            return False
        inner: list[float] = []
        for _ in range(self.max_inner_epochs):
            train()
            self.counts["inner_epochs"] += 1
            inner = [*inner, accuracy()][-self.window :]
            if len(inner) == self.window and _range(inner) > self.inner_threshold:
                return True
        self.counts["inner_caps"] += 1
        return False


def _range(accuracies: list[float]) -> float:
    return max(accuracies) - min(accuracies)
