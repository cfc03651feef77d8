"""How does recipe ``continual`` show its result: a figure, a page, and what the numbers mean in words?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ddkit.base.files import write_atomically
from ddkit.evaluation.report.document import Section, write_document
from ddkit.evaluation.statistics import summary
from ddkit.recipes.continual_runs import WITHOUT_MEMORY, Outcome, Settings
from ddkit.recipes.continual_table import Values, against_best, finals

COLOURS = {
    "distilled": "#c0392b",
    "herding": "#2c6fbb",
    "random": "#7f8c8d",
    "adaptive": "#16a085",
    "reservoir": "#8e6bbf",
    "joint": "#222222",
    "none": "#aaaaaa",
}
NAMES = {
    "distilled": "distilled",
    "herding": "herding on the model's features",
    "random": "class-balanced random",
    "adaptive": "class-balanced, adaptive",
    "reservoir": "reservoir",
    "joint": "joint training (upper bound)",
    "none": "no replay",
}


def write(
    settings: Settings,
    outcomes: list[Outcome],
    table: list[dict[str, Any]],
    out: Path,
    command: str,
    seconds: float,
    images: tuple[int, int],
) -> Path:
    """Write ``continual.png`` and ``report.html`` into ``out``; return the page."""
    figure = draw(settings, outcomes, out / "continual.png")
    values = finals(outcomes)
    title = f"{settings.benchmark}: replay memories of distilled and real images"
    sections = [
        Section("What was done", what_was_done(settings, seconds, images)),
        Section("Final accuracy against the memory", figure=figure, caption=_caption(settings)),
        Section("How to read this", how_to_read(settings, values)),
        Section("All results", table=table),
    ]
    curves = _curves_table(settings, outcomes)
    if curves:
        text = "Per cent of the classes seen so far, mean over the seeds, of the network that goes on training."
        sections.append(Section("Accuracy after each experience", text, table=curves))
    return write_document(out / "report.html", title, sections, command, lead=headline(values, settings))


def draw(settings: Settings, outcomes: list[Outcome], path: Path) -> Path:
    """Draw final accuracy against bytes, one panel a protocol, one line a policy with a band of one deviation."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    values = finals(outcomes)
    figure = Figure(figsize=(5.2 * len(settings.protocols), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(settings.protocols), sharey=True, squeeze=False)[0]
    for panel, protocol in zip(panels, settings.protocols, strict=True):
        for policy in settings.policies:
            name, colour = NAMES[policy], COLOURS[policy]
            if policy in WITHOUT_MEMORY:
                if (protocol, 0, policy) in values:
                    level = 100 * summary(values[(protocol, 0, policy)]).mean
                    panel.axhline(level, color=colour, linestyle="--", linewidth=1, label=name)
                continue
            budgets = sorted({b for p, b, q in values if (p, q) == (protocol, policy)})
            sizes = [_bytes(outcomes, policy, budget) for budget in budgets]
            results = [summary(values[(protocol, budget, policy)]) for budget in budgets]
            means = [100 * result.mean for result in results]
            bands = [100 * result.std for result in results]
            panel.plot(sizes, means, marker="o", markersize=4, color=colour, label=name)
            low, high = ([m + sign * b for m, b in zip(means, bands, strict=True)] for sign in (-1, 1))
            panel.fill_between(sizes, low, high, color=colour, alpha=0.12, linewidth=0)
        panel.set(xscale="log", xlabel="bytes of the memory, labels included", title=protocol)
        ticks = sorted({round(_bytes(outcomes, one.run.policy, one.run.budget)) for one in outcomes} - {0})
        panel.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        panel.set_xticks([], minor=True)
        panel.grid(alpha=0.25)
    panels[0].set_ylabel("final accuracy on all classes, %")
    shown = {name: line for panel in panels for line, name in zip(*panel.get_legend_handles_labels(), strict=True)}
    panels[-1].legend(shown.values(), shown.keys(), fontsize=8, loc="lower right")
    return write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=130))


def headline(values: Values, settings: Settings) -> str:
    """Return in one sentence where distilled images are ahead."""
    verdicts = [_verdict(values, protocol, budget) for protocol in settings.protocols for budget in settings.budgets]
    known = [verdict for verdict in verdicts if verdict is not None]
    if not known:
        return "No memory of distilled images stands beside one of real images."
    ahead, behind = known.count("ahead"), known.count("behind")
    return (
        f"Against the best memory of real images, in no more bytes, distilled images are ahead in {ahead}, "
        f"behind in {behind} and not distinguishable in {len(known) - ahead - behind} of {len(known)} comparisons."
    )


def what_was_done(settings: Settings, seconds: float, images: tuple[int, int]) -> str:
    """Return the settings in words."""
    training = settings.training
    repeated = (
        "Every memory fills its part of the mini-batch by repetition"
        if settings.repeat_to_batch
        else "A memory smaller than its part of the mini-batch appears in it once, as in Avalanche's loader"
    )
    return (
        f"{settings.benchmark}: {images[0]} training and {images[1]} test images, {settings.classes_per_experience} "
        f"classes an experience, {settings.seeds} seeds; a seed decides on class order, network, draws and "
        f"distillation, and all policies share its class order. {settings.model}; {training.epochs} epochs an "
        f"experience of SGD (rate {training.lr:g}, momentum {training.momentum:g}) on {training.batch} images of the "
        f"stream and {training.memory_batch} of the memory. {repeated}.\n\n"
        f"Real images are 8-bit with labels of one byte; the distilled memory gets at most the same bytes, labels "
        f"and decoders included. Avalanche's own buffers (reservoir, adaptive) are counted like the real images, "
        f"though they keep the stream's datasets alive. "
        f"Distillation: {settings.distil}. Retraining on the memory alone: {settings.retrain}. It took {seconds:.0f} "
        f"seconds in all.\n\nNothing was selected on the test images, but the best memory of real images is named by "
        f"its test accuracy, in its favour."
    )


def how_to_read(settings: Settings, values: Values) -> str:
    """Return what the numbers mean, losses included."""
    lines = [_sentence(values, protocol, budget) for protocol in settings.protocols for budget in settings.budgets]
    known = [line for line in lines if line]
    text = " ".join(known) or "There is nothing to compare distilled images with."
    verdicts = [_verdict(values, protocol, budget) for protocol in settings.protocols for budget in settings.budgets]
    advice = [_trend(values, protocol, settings.budgets) for protocol in settings.protocols]
    if "behind" in verdicts:
        advice.append(
            "Where distilled images lose, these steps of distilling add less than the selected real images carry: give "
            "it more (distil.steps), or keep real ones."
        )
    advice.append(
        "An interval that contains 0 means that these seeds cannot tell the two apart; each holds for its comparison "
        "alone, not for all of them together. Forgetting and transfer are those of the network that goes on training."
    )
    return text + "\n\n" + " ".join(line for line in advice if line)


def _verdict(values: Values, protocol: str, budget: int) -> str | None:
    found = against_best(values, protocol, budget)
    if found is None:
        return None
    interval = found[1].differences.interval95
    if interval is None or interval[0] <= 0 <= interval[1]:
        return "even"
    return "ahead" if interval[0] > 0 else "behind"


def _sentence(values: Values, protocol: str, budget: int) -> str:
    found = against_best(values, protocol, budget)
    if found is None:
        return ""
    best, difference = found
    mine = 100 * summary(values[(protocol, budget, "distilled")]).mean
    other = 100 * summary(values[(protocol, budget, best)]).mean
    interval = difference.differences.interval95
    ends = "" if interval is None else f", 95 % interval {100 * interval[0]:+.1f} to {100 * interval[1]:+.1f}"
    word = {"ahead": "ahead of", "behind": "behind", "even": "not distinguishable from"}
    verdict = _verdict(values, protocol, budget) or "even"
    return (
        f"{protocol.capitalize()}, {budget} images: distilled {mine:.1f} %, {word[verdict]} {NAMES[best]} with "
        f"{other:.1f} % (difference {100 * difference.differences.mean:+.1f} points{ends})."
    )


def _trend(values: Values, protocol: str, budgets: list[int]) -> str:
    """Say how the difference changes from the smallest to the largest memory."""
    sizes = sorted(set(budgets))
    found = {size: against_best(values, protocol, size) for size in (sizes[0], sizes[-1])}
    gains = [f"{100 * one[1].differences.mean:+.1f} points at {size} images" for size, one in found.items() if one]
    return f"{protocol.capitalize()}: the difference goes from {' to '.join(gains)}." if len(gains) > 1 else ""


def _curves_table(settings: Settings, outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """Return the accuracy after each experience, a row for each memory."""
    rows = []
    for budget in (0, *settings.budgets):
        for policy in settings.policies:
            mine = [one.interleave for one in outcomes if (one.run.policy, one.run.budget) == (policy, budget)]
            curves = [one.after_each for one in mine if one is not None]
            if policy == "joint" or not curves:
                continue
            steps = zip(*curves, strict=True)
            cells = {f"after {n}": round(100 * summary(step).mean, 1) for n, step in enumerate(steps, 1)}
            rows.append({"memory": budget or None, "policy": policy, **cells})
    return rows


def _bytes(outcomes: list[Outcome], policy: str, budget: int) -> float:
    return summary([one.bytes for one in outcomes if (one.run.policy, one.run.budget) == (policy, budget)]).mean


def _caption(settings: Settings) -> str:
    return (
        f"Final accuracy on all classes against the bytes of the memory (logarithmic), mean and one standard deviation "
        f"over {settings.seeds} seeds; panels: {', '.join(settings.protocols)}."
    )
