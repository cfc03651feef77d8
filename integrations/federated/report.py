"""What became of each client in each round?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from logging import getLogger
from typing import Any

from ddkit.integrations.federated.flower import Message, MetricRecord
from ddkit.integrations.federated.shares import largest_share

_logger = getLogger("ddkit.federated")

#: Characters of a reason that a client gives, as kept.
REASON = 300


@dataclass
class RoundReport:
    """One round; clients are named by their nodes.

    Args:
        number: of the round, from 1.
        asked: clients that were sent a message.
        accepted: images of each client whose set (or 1 for each whose update) was used.
        refused: why a client's payload was not used; of a client that was accepted, why another reply was not.
        failed: why a client answered with an error.
        stale: clients of which an earlier set was used, with its round.
        outliers: clients whose set was left out by the robust step, with the cosine.
        suspects: clients whose labels contradict the images of the others, with what is wrong; used unless the
            strategy is told to leave them out.
        shares: of the weight of the training (or of the average) that each client used has.
        cut: clients that claimed a larger share than one client may have, with that share.
        note: what else went wrong on the server; empty for nothing.
        missing_classes: names of classes of which nobody sent an image.
        seconds: that the server took after the answers were in.
    """

    number: int
    asked: tuple[int, ...] = ()
    accepted: dict[int, int] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    stale: dict[int, int] = field(default_factory=dict)
    outliers: dict[int, float] = field(default_factory=dict)
    suspects: dict[int, str] = field(default_factory=dict)
    shares: dict[int, float] = field(default_factory=dict)
    cut: dict[int, float] = field(default_factory=dict)
    note: str = ""
    missing_classes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def silent(self) -> tuple[int, ...]:
        """Clients that were asked and did not answer in time."""
        heard = (set(self.accepted) - set(self.stale)) | {
            *self.refused,
            *self.failed,
            *self.outliers,
            *self.suspects,
        }
        return tuple(node for node in self.asked if node not in heard)

    def unexpected(self, node: int) -> str | None:
        """Return why a reply is not read: its client was not asked, or has replied; None for a reply to read."""
        if node not in self.asked:
            return "this client was not asked in this round"
        if node in self.accepted or node in self.refused or node in self.failed:
            return "this client replied before in this round: its first reply counts"
        return None

    def reasons(self) -> str:
        """Return in one line who is missing and why, equal reasons together."""
        by_reason: dict[str, list[int]] = {}
        for node, reason in [*self.refused.items(), *self.failed.items()]:
            if node not in self.accepted:
                by_reason.setdefault(reason, []).append(node)
        for node in self.silent:
            by_reason.setdefault("no answer in time", []).append(node)
        for node in self.outliers:
            by_reason.setdefault("left out as an outlier", []).append(node)
        for node in self.suspects:
            if node not in self.accepted:
                by_reason.setdefault("left out as a suspect", []).append(node)
        return "; ".join(f"{', '.join(map(str, nodes))}: {reason}" for reason, nodes in by_reason.items())

    def weigh(self, nodes: Sequence[int], shares: Sequence[float], claimed: Sequence[float]) -> None:
        """Keep the shares that clients have, and those that they claimed where these are larger than any may be."""
        most = largest_share(len(nodes))
        self.shares = {node: round(share, 4) for node, share in zip(nodes, shares, strict=True)}
        self.cut = {
            node: round(share, 4) for node, share in zip(nodes, claimed, strict=True) if share > most * (1 + 1e-9)
        }
        if self.cut:
            told = ", ".join(f"{node} ({share:.0%})" for node, share in self.cut.items())
            _logger.info("round %d: claimed more than %.0f %% of the weight: %s", self.number, 100 * most, told)

    def metrics(self) -> MetricRecord:
        """Return the numbers of the round as Flower keeps them."""
        numbers: dict[str, Any] = {
            "clients-asked": len(self.asked),
            "clients-accepted": len(self.accepted),
            "clients-refused": len(self.refused),
            "clients-failed": len(self.failed),
            "clients-silent": len(self.silent),
            "clients-suspect": len(self.suspects),
            "clients-cut": len(self.cut),
            "largest-share": max(self.shares.values(), default=0.0),
            "images": sum(self.accepted.values()),
            "classes-missing": len(self.missing_classes),
        }
        return MetricRecord(numbers)


def one_line(text: str) -> str:
    """Return what a stranger wrote as one line without control characters, cut to ``REASON`` characters."""
    return "".join(character if character.isprintable() else " " for character in text[:REASON])


def reason_of(message: Message) -> str:
    """Return the first line that says something of an error reply, which may hold a long traceback."""
    lines = [line.strip() for line in (message.error.reason or "").splitlines() if line.strip()]
    # Of a traceback the last line is the error itself.
    told = lines[-1] if lines and lines[0].startswith(("Traceback", "ray::")) else lines[0] if lines else "no reason"
    return one_line(told)
