"""``ddkit audit`` attacks a private method, one without privacy, and mechanisms with mistakes."""

from __future__ import annotations

from typing import Annotated

import typer

from ddkit.cli.options import DataRoot, Json, Seed, Verbose, typed_command
from ddkit.cli.tables import print_json, print_table, say
from ddkit.errors import ConfigError, RunError


def audit(
    method: Annotated[str, typer.Option(help="dp-dm, dp-dm-iterated, psg or dp-kip.")] = "dp-dm",
    epsilon: Annotated[float, typer.Option(help="The claim to test.")] = 1.0,
    delta: Annotated[float | None, typer.Option(help="Of the claim (default: min(1e-5, 1/(10 N))).")] = None,
    data: Annotated[str, typer.Option(help="Records to guess the membership of.")] = "digits",
    trials: Annotated[int, typer.Option(help="Releases with, and without, the canary; 0 for none.")] = 4000,
    runs: Annotated[int, typer.Option(help="Released sets for membership inference; 0 for none.")] = 8,
    ipc: Annotated[int, typer.Option(help="Images per class of these sets.")] = 10,
    steps: Annotated[int, typer.Option(help="Outer steps of these sets.")] = 200,
    mutants: Annotated[bool, typer.Option(help="Also audit mechanisms with mistakes, which must be caught.")] = True,
    data_root: DataRoot = None,
    seed: Seed = 0,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Attack a differentially private method: canaries in its mechanism, membership inference on what it releases.

    Every row has a lower bound on epsilon at 95 % confidence. A claim that is refuted ends with exit status 1. An audit
    that finds nothing tests the program and proves nothing about safety.
    """
    from ddkit.data.loading import load_pair
    from ddkit.integrations.private.audit import audit_mechanism, audit_membership, require_audit
    from ddkit.integrations.private.distiller import PrivateDistiller
    from ddkit.integrations.private.mutants import MUTANTS

    require_audit(trials, runs)
    if not trials and not runs:
        raise ConfigError("nothing to audit with --trials 0 and --runs 0: give one of them")
    PrivateDistiller(epsilon, delta, method=method, ipc=ipc, steps=steps)  # refuses what makes no sense
    train, _ = load_pair(data, root=data_root)
    at = min(1e-5, 0.1 / len(train)) if delta is None else delta
    if at >= 1 / len(train):
        raise ConfigError(f"--delta {at:g} is not below 1/N={1 / len(train):.3g} for {len(train)} records: lower it")
    rows = []
    if trials:
        if not as_json:
            say(f"auditing {method} at epsilon {epsilon:g}, delta {at:g}: {trials} releases with and without a canary")
        rows += audit_mechanism(method, epsilon, at, trials, seed, MUTANTS if mutants else ())
    if runs:
        if not as_json:
            say(f"membership inference on {2 * runs} sets, each of a random half of {train.name}")
        options = {"steps": steps}
        rows += audit_membership(method, train, epsilon, at, runs=runs, ipc=ipc, seed=seed, private=options)
    table = [row.as_dict() for row in rows]
    passed = all(row.passed for row in rows)
    print_json({"command": typed_command(), "passed": passed, "rows": table}) if as_json else print_table(table)
    refuted = [row for row in rows if not row.must_exceed and not row.passed]
    if refuted:
        worst = max(refuted, key=lambda row: row.bound)
        raise RunError(
            f"{worst.subject} claims epsilon {worst.claimed:g} and an attack shows at least {worst.bound:.2f}: do not "
            f"release anything made with it"
        )
    missed = [row.subject for row in rows if row.must_exceed and not row.passed]
    if missed:
        raise RunError(f"the audit misses {', '.join(missed)}, so it says little: raise --trials, --runs or --epsilon")
