"""What does recipe ``federated`` tell: the table, the figure of accuracy against bytes, and how to read them?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ddkit.base.files import write_atomically
from ddkit.evaluation.report.document import Section, write_document
from ddkit.evaluation.statistics import Summary, paired_difference, summary
from ddkit.recipes.federated_settings import Settings

_COLOURS = {"averaging": "#3b5b92", "records": "#8a6d1f", "distilled": "#0f766e", "central": "#7b8089"}
_MARKERS = "osD^vP*X"


@dataclass
class Way:
    """One way of learning on one partition.

    Args:
        name: what tables call it.
        kind: ``averaging``, ``records``, ``distilled`` or ``central``.
        accuracy: on the test images, one per point.
        worst: accuracy of the client that does worst, whose classes weigh as in its own images; one per point.
        up: bytes that a client has sent on average, one per point.
        down: bytes that a client has received on average, one per point.
        images: synthetic or real images that the server trained on last; 0 where weights are sent.
        seconds: wall clock of clients and server together, without measuring accuracies.
    """

    name: str
    kind: str
    accuracy: list[float] = field(default_factory=list)
    worst: list[float] = field(default_factory=list)
    up: list[float] = field(default_factory=list)
    down: list[float] = field(default_factory=list)
    images: int = 0
    seconds: float = 0.0


#: The ways of one alpha: one list per partition, in the same order.
Runs = Sequence[Sequence[Way]]


def _over_partitions(runs: Runs) -> list[list[Way]]:
    """Return one list of partitions per way."""
    return [list(ways) for ways in zip(*runs, strict=True)]


def _mean(values: Sequence[float]) -> float:
    return summary(values).mean


def _finals(ways: Sequence[Way]) -> list[float]:
    return [way.accuracy[-1] for way in ways]


def _percent(one: Summary) -> str:
    spread = f" ± {100 * one.std:.1f}" if one.count > 1 else ""
    return f"{100 * one.mean:.1f}{spread}"


def _verdict(ways: Sequence[Way], other: Sequence[Way]) -> str:
    """Return what a paired difference says; no more than its interval where that includes 0."""
    found = paired_difference(_finals(ways), _finals(other)).differences
    if found.half_width95 is None or abs(found.mean) <= found.half_width95:
        return "cannot be told from"
    return "wins over" if found.mean > 0 else "loses to"


def _difference(ways: Sequence[Way], other: Sequence[Way]) -> str:
    """Return the paired difference in points with its 95 % interval, which one pair does not have."""
    found = paired_difference(_finals(ways), _finals(other)).differences
    width = "" if found.half_width95 is None else f" ± {100 * found.half_width95:.1f}"
    return f"{100 * found.mean:+.1f}{width}"


def best_averaging(ways: Sequence[Sequence[Way]]) -> Sequence[Way]:
    """Return the way of averaging with the highest mean accuracy at its end: the hardest of them to beat."""
    return max((one for one in ways if one[0].kind == "averaging"), key=lambda one: _mean(_finals(one)))


def first_round(fedavg: Sequence[Way], accuracy: float) -> int | None:
    """Return the first round after which FedAvg is at least as accurate on average; None where it never is."""
    for number in range(len(fedavg[0].accuracy)):
        if _mean([way.accuracy[number] for way in fedavg]) >= accuracy:
            return number + 1
    return None


def _records_beside(ways: Sequence[Sequence[Way]], one: Sequence[Way]) -> Sequence[Way] | None:
    """Return the best real images at the number of images and bytes of a distilled set that is sent once."""
    same = [other for other in ways if other[0].kind == "records" and other[0].images == one[0].images]
    if one[0].kind != "distilled" or len(one[0].accuracy) > 1 or not same:
        return None
    return max(same, key=lambda other: _mean(_finals(other)))


def rows(results: Mapping[float, Runs]) -> list[dict[str, Any]]:
    """Return one row per alpha and way."""
    table = []
    for alpha, runs in results.items():
        ways = _over_partitions(runs)
        best = best_averaging(ways)
        fedavg = next(one for one in ways if one[0].name == "FedAvg")
        for one in ways:
            final = summary(_finals(one))
            sent = bool(one[0].up)
            records = _records_beside(ways, one)
            reached = first_round(fedavg, final.mean) if one[0].kind != "central" else None
            table.append(
                {
                    "alpha": alpha,
                    "way": one[0].name,
                    "what is sent": {"averaging": "weights", "records": "real images", "central": "all images"}.get(
                        one[0].kind, "weights" if one[0].name == "DynaFed" else "distilled images"
                    ),
                    "rounds": len(one[0].accuracy) if sent else None,
                    "accuracy %": _percent(final),
                    "partitions": final.count,
                    "worst client %": round(100 * _mean([way.worst[-1] for way in one]), 1),
                    "kB up per client": round(_mean([way.up[-1] for way in one]) / 1e3, 2) if sent else None,
                    "kB down per client": round(_mean([way.down[-1] for way in one]) / 1e3, 2) if sent else None,
                    "FedAvg gets there": None
                    if one[0].kind == "central"
                    else f"round {reached}"
                    if reached
                    else f"not in {len(fedavg[0].accuracy)}",
                    "− best averaging": _difference(one, best),
                    "− best real images": None if records is None else _difference(one, records),
                    "seconds": round(_mean([way.seconds for way in one]), 1),
                }
            )
    return table


def draw(results: Mapping[float, Runs], path: Path, settings: Settings) -> Path:
    """Draw accuracy against the bytes that a client has sent, one panel per alpha."""
    figure = Figure(figsize=(5.2 * len(results), 4.2), layout="constrained")
    panels = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    for axes, (alpha, runs) in zip(panels, results.items(), strict=True):
        _panel(axes, _over_partitions(runs))
        axes.set_title(f"Dirichlet {alpha:g}")
        axes.set_xlabel("sent by a client so far, kB")
    panels[0].set_ylabel(f"accuracy on {settings.data}, %")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    FigureCanvasAgg(figure)

    def save(temporary: Path) -> None:
        figure.savefig(temporary, format="png", dpi=130)

    return write_atomically(path, save)


def _panel(axes: Axes, ways: Sequence[Sequence[Way]]) -> None:
    used: dict[str, int] = {}
    for one in ways:
        kind = one[0].kind
        means = [100 * _mean([way.accuracy[k] for way in one]) for k in range(len(one[0].accuracy))]
        if kind == "central":
            axes.axhline(means[-1], color=_COLOURS[kind], linestyle="--", linewidth=1, label=one[0].name)
            continue
        bytes_up = [_mean([way.up[k] for way in one]) / 1e3 for k in range(len(means))]
        spread = 100 * summary(_finals(one)).std
        marker = _MARKERS[used.get(kind, 0) % len(_MARKERS)]
        used[kind] = used.get(kind, 0) + 1
        style: dict[str, Any] = {"color": _COLOURS[kind], "marker": marker, "markersize": 5, "linewidth": 1}
        hollow = "none" if kind == "records" else _COLOURS[kind]
        axes.plot(bytes_up, means, markerfacecolor=hollow, label=one[0].name, **style)
        axes.errorbar(bytes_up[-1:], means[-1:], yerr=[spread], color=_COLOURS[kind], linewidth=1, capsize=2)
    axes.set_xscale("log")
    axes.grid(True, which="major", alpha=0.25)


def reading(results: Mapping[float, Runs]) -> str:
    """Return in words what the numbers say, losses included."""
    paragraphs = []
    for alpha, runs in results.items():
        ways = _over_partitions(runs)
        fedavg = next(one for one in ways if one[0].name == "FedAvg")
        said = [f"Dirichlet {alpha:g}."]
        for one in ways:
            if one[0].kind == "distilled":
                said.append(_sentence(one, ways, fedavg))
        paragraphs.append(" ".join(said))
    return "\n\n".join(paragraphs)


def _sentence(one: Sequence[Way], ways: Sequence[Sequence[Way]], fedavg: Sequence[Way]) -> str:
    accuracy, sent = _mean(_finals(one)), _mean([way.up[-1] for way in one])
    received = _mean([way.down[-1] for way in one])
    text = (
        f"{one[0].name}: {100 * accuracy:.1f} % for {sent / 1e3:.2f} kB sent and {received / 1e3:.2f} received by a "
        f"client;"
    )
    reached = first_round(fedavg, accuracy)
    if reached is None:
        total = _mean([way.up[-1] for way in fedavg])
        text += f" FedAvg does not get there in {len(fedavg[0].accuracy)} rounds ({total / 1e3:.1f} kB)"
    else:
        ratio = _mean([way.up[reached - 1] for way in fedavg]) / sent
        times = f"{ratio:.1f} times" if ratio >= 1 else f"only {ratio:.2f} times"
        text += f" FedAvg gets there in round {reached}, for {times} the bytes sent"
    records = _records_beside(ways, one)
    if records is not None:
        text += (
            f"; it {_verdict(one, records)} the best real images at equal bytes ({records[0].name}): "
            f"{_difference(one, records)} points"
        )
    return text + "."


def write_report(
    results: Mapping[float, Runs],
    table: Sequence[Mapping[str, Any]],
    figure: Path,
    path: Path,
    settings: Settings,
    command: str,
    seconds: float,
) -> Path:
    """Write the page."""
    intervals = (
        "Differences are paired over partitions, in points, with 95 % t-intervals."
        if settings.seeds > 1
        else "With one partition there are no intervals: set seeds to 3 or more."
    )
    done = (
        f"{settings.clients} clients hold parts of {settings.data}, drawn by a Dirichlet distribution over classes; "
        f"{settings.seeds} partitions per alpha, each with its own initial weights, which all ways share. The model is "
        f"{settings.model}. Bytes are those of the arrays and numbers in the messages, as Flower counts them, without "
        f"its framing and without compression. Accuracies are those on {settings.measure} images at the last round of "
        f"each way; no round is picked. The rate of averaging in the recipe's file was chosen on validation images, "
        f"its other settings by seconds and from papers; earlier drafts of them had been seen on "
        f"test images of digits. {seconds:.0f} seconds in all."
    )
    honest = (
        "Random and herded images are the clients' private records: they show what as many bytes of real data would "
        "give, and are no alternative where records must not be sent. Distilled images start from means of two records "
        "or more, not from records; that alone is no guarantee of privacy. The best way of averaging is the one with "
        "the highest mean here, which favours it."
    )
    sections = [
        Section("What was done", done),
        Section("Accuracy and bytes", intervals, table=list(table)),
        Section(
            "Accuracy against bytes",
            figure=figure,
            caption="Accuracy against the kilobytes that a client has sent so far (logarithmic); bars are standard "
            "deviations over partitions at the last round; hollow markers are real images",
        ),
        Section("How to read this", f"{reading(results)}\n\n{honest}"),
        Section("Settings", "\n\n".join(f"{key}: {value}" for key, value in settings.model_dump().items())),
    ]
    return write_document(path, "Federated learning with distilled sets", sections, command)
