"""What do the runs of recipe ``continual`` say, in numbers?"""

from __future__ import annotations

from typing import Any

from ddkit.evaluation.statistics import PairedDifference, paired_difference, summary
from ddkit.recipes.continual_runs import WITHOUT_MEMORY, Outcome, Settings

#: Protocol, images of the memory (0 for none), policy.
Cell = tuple[str, int, str]
Values = dict[Cell, list[float]]


def finals(outcomes: list[Outcome]) -> Values:
    """Return the final accuracies of all seeds by protocol, budget and policy."""
    values: Values = {}
    for one in outcomes:
        if one.interleave is not None:
            values.setdefault(("interleave", one.run.budget, one.run.policy), []).append(one.interleave.final)
        if one.retrain:
            values.setdefault(("retrain", one.run.budget, one.run.policy), []).append(one.retrain[-1])
    return values


def best_other(values: Values, protocol: str, budget: int) -> str | None:
    """Return the memory of real images with the largest mean final accuracy; None where there is none."""
    means = {
        policy: summary(numbers).mean
        for (p, b, policy), numbers in values.items()
        if (p, b) == (protocol, budget) and policy not in (*WITHOUT_MEMORY, "distilled")
    }
    return max(means, key=lambda policy: means[policy]) if means else None


def table_of(settings: Settings, outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """Return one row for each protocol, size and policy: mean and standard deviation over the seeds."""
    values = finals(outcomes)
    rows = []
    for protocol in dict.fromkeys(settings.protocols):
        for budget in (0, *dict.fromkeys(settings.budgets)):
            best = best_other(values, protocol, budget)
            for policy in dict.fromkeys(settings.policies):
                key = (protocol, budget, policy)
                if key in values:
                    mine = [one for one in outcomes if (one.run.policy, one.run.budget) == (policy, budget)]
                    against = values[(protocol, budget, best)] if best not in (None, policy) else None
                    rows.append(_row(key, values[key], mine, against))
    return rows


def _row(key: Cell, numbers: list[float], mine: list[Outcome], against: list[float] | None) -> dict[str, Any]:
    protocol, budget, policy = key
    streams = [one.interleave for one in mine if one.interleave is not None and policy != "joint"]
    streams = streams if protocol == "interleave" else []
    curves = [one.retrain for one in mine] if protocol == "retrain" and policy != "joint" else []
    whole = [sum(curve) / len(curve) for curve in curves if len(curve) > 1]
    incremental = [one.incremental for one in streams] or whole
    return {
        "protocol": protocol,
        "memory": budget or None,
        "bytes": round(summary([one.bytes for one in mine]).mean) or None,
        "policy": policy,
        "final %": _percent(numbers),
        "incremental %": _percent(incremental),
        "forgetting %": _percent([one.forgetting for one in streams]),
        "transfer %": _percent([one.backward_transfer for one in streams]),
        "minus best other (95 %)": None if against is None else _difference(numbers, against),
        "seconds": round(summary([one.seconds for one in mine]).mean, 1),
        "distilling s": round(summary([one.distil_seconds for one in mine]).mean, 1) or None,
        "seeds": len(numbers),
    }


def _percent(values: list[float]) -> str | None:
    return summary(values).percent() if values else None


def _difference(a: list[float], b: list[float]) -> str:
    result = paired_difference(a, b).differences
    interval = result.interval95
    ends = "" if interval is None else f" [{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]"
    return f"{100 * result.mean:+.1f}{ends}"


def against_best(values: Values, protocol: str, budget: int) -> tuple[str, PairedDifference] | None:
    """Return the best memory of real images and how far distilled images are ahead of it; None without one of both."""
    best = best_other(values, protocol, budget)
    mine = values.get((protocol, budget, "distilled"))
    if best is None or mine is None:
        return None
    return best, paired_difference(mine, values[(protocol, budget, best)])
