"""What is a ranking: scores, ranks and costs of candidates, with what went wrong, as JSON and CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import stats

from ddkit.base.documents import parse_json
from ddkit.base.files import write_text
from ddkit.errors import ConfigError, DataError
from ddkit.integrations.nas.comparison import Comparison, compare
from ddkit.integrations.nas.entries import Cost, Entry, Scores, score_matrix
from ddkit.integrations.nas.orders import Truth, order_values

FORMAT = "ddkit.nas-ranking"


@dataclass(frozen=True)
class Ranking(Scores):
    """Candidates with their scores, to be put in order, compared with the truth and kept in a file.

    Args and errors are those of :class:`~ddkit.integrations.nas.entries.Scores`.
    """

    @property
    def ranks(self) -> dict[str, float]:
        """Rank of every usable candidate: 1 is the best, ties get the average of their ranks."""
        usable = self.usable
        values = -order_values([entry.rung for entry in usable], score_matrix(usable).mean(axis=1))
        return dict(zip((entry.name for entry in usable), stats.rankdata(values).tolist(), strict=True))

    @property
    def selected(self) -> tuple[str, ...]:
        """The candidates that share the best rank.

        Raises:
            ConfigError: no candidate has a score.
        """
        ranks = self.ranks
        if not ranks:
            raise ConfigError("no candidate of the ranking has a score: see the messages of its entries")
        best = min(ranks.values())
        return tuple(name for name, rank in ranks.items() if rank == best)

    @property
    def best(self) -> str:
        """The best candidate; the first one of the space where several tie (:attr:`selected`)."""
        return self.selected[0]

    def compare(self, truth: Truth, **options: Any) -> Comparison:
        """Compare with the ground truth, see :func:`ddkit.integrations.nas.compare`."""
        return compare(self, truth, **options)

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per candidate, best first, then those without scores: for a table or a file."""
        ranks = self.ranks
        ordered = sorted(self.entries, key=lambda entry: ranks.get(entry.name, float("inf")))
        return [_row(entry, ranks.get(entry.name)) for entry in ordered]

    def to_csv(self) -> str:
        """Return :meth:`rows` as CSV text with a head."""
        rows, text = self.rows(), io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def to_json(self) -> str:
        """Return the whole ranking as JSON text, from which :meth:`from_json` builds an equal one."""
        content = {"format": FORMAT, **dataclasses.asdict(self)}
        return json.dumps(content, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Ranking:
        """Read what :meth:`to_json` wrote.

        Raises:
            DataError: text of another form.
        """
        try:
            content = parse_json(text)
            if content.pop("format") != FORMAT:
                raise ValueError("another format")
            entries = tuple(
                Entry(**{**entry, "scores": tuple(entry["scores"]), "flags": tuple(entry["flags"])})
                for entry in content.pop("entries")
            )
            if not all(isinstance(one.name, str) and all(map(_is_score, one.scores)) for one in entries):
                raise ValueError("another kind of scores")
            return cls(entries, Cost(**content.pop("cost")), notes=tuple(content.pop("notes")), **content)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(
                f"this is not a ranking ({type(error).__name__}): give the JSON that a ranking saved"
            ) from None

    def save(self, folder: Path | str, name: str = "ranking") -> Path:
        """Write ``name.json`` and ``name.csv`` into ``folder``, atomically; return the path of the first.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        write_text(Path(folder) / f"{name}.csv", self.to_csv())
        return write_text(Path(folder) / f"{name}.json", self.to_json())


def _is_score(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def _row(entry: Entry, rank: float | None) -> dict[str, Any]:
    return {
        "candidate": entry.name,
        "rank": rank,
        "score": entry.score,
        "spread": entry.spread,
        "seeds": len(entry.scores),
        "status": entry.status,
        "rung": entry.rung,
        "epochs": entry.epochs,
        "parameters": entry.parameters,
        "learning_rate": entry.learning_rate,
        "seconds": round(entry.seconds, 3),
        "cpu_seconds": round(entry.cpu_seconds, 3),
        "image_passes": entry.image_passes,
        "flags": "; ".join(entry.flags),
        "message": entry.message,
    }
