"""Does a private fit keep its promise, sign its result, and refuse what would leak?"""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ddkit.data import RealData
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.engine.callbacks import PeriodicEvaluation
from ddkit.errors import ConfigError, DataError
from ddkit.integrations.private import (
    PrivacyBudget,
    PrivacyBudgetError,
    PrivateDistiller,
    gaussian_epsilon,
    plan_epsilon,
)
from ddkit.integrations.private.refusals import refuse
from tests.integrations.private_small import TINY, records


def distiller(method: str = "dp-dm", **options: Any) -> PrivateDistiller:
    settings = {"ipc": 2, "accountant": "rdp", "method": method, **TINY[method], **options}
    if not {"epsilon", "noise_multiplier", "budget"} & set(settings):
        settings["epsilon"] = 2.0
    return PrivateDistiller(**settings)


@pytest.mark.parametrize("method", sorted(TINY))
def test_every_method_spends_what_it_claims_and_signs_its_set(method: str, tmp_path: Path) -> None:
    real = records()
    made = distiller(method)
    made.fit(real, out=tmp_path)
    kept = DistilledDataset.load(tmp_path)
    report = made.report()
    assert kept.shape == real.shape and len(kept) == 6
    assert report.queries == (1 if method == "dp-dm" else 3)
    assert 1.97 < report.epsilon <= 2 and report.private
    assert report.delta == 1e-5
    assert report.epsilon == plan_epsilon(made_ledger(report), report.delta, "rdp")
    assert kept.metadata["privacy"]["epsilon"] == report.epsilon and kept.metadata["method"] == method
    assert json.loads((tmp_path / "privacy.json").read_text()) == kept.metadata["privacy"]
    assert (tmp_path / "privacy.txt").read_text().strip() == report.as_text()


def made_ledger(report: Any) -> list[Any]:
    from ddkit.integrations.private import Queries

    return [Queries(*entry) for entry in report.ledger]


def test_the_card_has_no_fingerprint_of_the_records() -> None:
    real = records()
    kept = distiller().fit(real)
    assert kept.metadata["source"] == {"name": "tensors", "split": "train", "count": 36}
    assert real.fingerprint not in json.dumps(kept.metadata)
    assert kept.preprocessing.mean == (0.5,) and kept.preprocessing.std == (0.5,)


def test_without_noise_the_set_shows_the_classes_and_with_a_lot_it_does_not() -> None:
    real = records(per_class=40)
    means = torch.stack([real.images[real.labels == k].float().mean(0).flatten() for k in range(3)])
    means = means - means.mean(0)

    def match(sigma: float) -> float:
        options = {"steps": 80, "networks": 4, "noise_multiplier": sigma, "debug_seed": 1, "ipc": 1}
        images = distiller(**options).fit(real).images.flatten(1)
        images = images - images.mean(0)
        return float(torch.cosine_similarity(images, means).mean())

    assert match(1e-3) > 0.2 > match(1e4)


def test_a_debug_seed_repeats_the_noise_and_says_that_nothing_is_private() -> None:
    real = records()
    first, second = (distiller(debug_seed=3) for _ in range(2))
    assert torch.equal(first.fit(real).images, second.fit(real).images)
    assert not first.report().private
    assert "NOT private" in first.report().as_text() and "debug seed 3" in first.report().as_text()


def test_the_public_seed_does_not_decide_about_the_noise() -> None:
    real = records()
    first, second = (distiller(seed=5).fit(real) for _ in range(2))
    assert not torch.equal(first.images, second.images)
    assert "debug" not in json.dumps(first.metadata["privacy"])


def test_a_noise_multiplier_is_taken_as_it_is_and_its_epsilon_reported() -> None:
    made = distiller(noise_multiplier=3.0, accountant="prv")
    made.fit(records())
    report = made.report()
    assert report.noise_multiplier == 3.0
    assert report.epsilon == pytest.approx(gaussian_epsilon(3.0, 1e-5), rel=0.03)
    assert report.independent_epsilon == gaussian_epsilon(3.0, 1e-5) <= report.epsilon
    assert report.replace_one_epsilon == pytest.approx(gaussian_epsilon(1.5, 1e-5))
    assert report.budget_epsilon == report.total_epsilon == report.epsilon


def test_fits_on_one_budget_share_it() -> None:
    real, budget = records(), PrivacyBudget(3, 1e-5, "rdp")
    first = distiller(budget=budget, epsilon=2.0)
    first.fit(real)
    second = distiller(budget=budget)
    second.fit(real)
    assert first.report().total_epsilon == first.report().epsilon
    assert 2.95 < second.report().total_epsilon <= 3 and second.report().epsilon < 2.5
    assert len(second.report().ledger) == 2
    with pytest.raises(PrivacyBudgetError, match="above the budget of 3"):
        distiller(budget=budget, epsilon=1.0).fit(real)


def test_the_report_says_what_may_be_claimed() -> None:
    made = distiller()
    made.fit(records())
    text = dataclasses.replace(made.report(), baseline="linear 90.0 %").as_text()
    for words in (
        "(2, 1e-05)-differentially private under adding or removing one record",
        "N = 36",
        "3 classes",
        "class sizes, assumed equal",
        "normalisation 0.5, 0.5",
        "replacing a record",
        "os.urandom",
        "linear 90.0 %",
        "proves nothing about safety",
    ):
        assert words in text
    assert json.loads(made.report().as_json())["quote"] == made.report().quote


def test_no_report_before_a_fit() -> None:
    with pytest.raises(ConfigError, match="no privacy report before fit"):
        distiller().report()


def test_public_and_private_class_sizes() -> None:
    real = records()
    made = distiller(label_counts="private")
    made.fit(real)
    assert not any("class sizes" in entry for entry in made.report().public) and made.report().queries == 1
    distiller(label_counts=[12, 12, 12]).fit(real)
    with pytest.raises(ConfigError, match=r"must be positive public whole numbers|one for each of 3 classes"):
        distiller(label_counts=[12, 12]).fit(real)


def test_any_dataset_of_images_and_labels_can_be_distilled() -> None:
    real = records(per_class=4)
    items = [(image, int(label)) for image, label in zip(real.images, real.labels, strict=True)]
    assert len(distiller().fit(items)) == 6


def test_a_class_without_records_is_no_error_that_would_tell_so() -> None:
    real = records()
    some = real.subset((real.labels != 1).nonzero().flatten())
    assert distiller().fit(some).hard_labels().tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("delta", [1 / 36, 0.5])
@pytest.mark.parametrize("published", [None, 2, 30])
def test_a_delta_that_promises_nothing_is_refused(delta: float, published: int | None) -> None:
    words = r"below 1/N=0\.0278" if published is None else r"below 1/N=|of which records=\d+ says too few"
    with pytest.raises(ConfigError, match=words) as error:
        distiller(delta=delta, records=published).fit(records())
    assert published is None or "36" not in str(error.value)


def test_the_default_delta_stays_below_one_over_n() -> None:
    made = distiller(records=1_000_000)
    made.fit(records())
    assert made.report().delta == pytest.approx(1e-7)


def test_a_batch_beyond_the_records_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected size of a Poisson sample"):
        distiller("psg", batch=37).fit(records())


@pytest.mark.parametrize("name", ["ipc", "steps", "batch", "networks", "records"])
@pytest.mark.parametrize("value", [0, -5, 2.5, "3", True, math.nan])
def test_counts_must_be_whole_and_positive(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{name}=.* must be a whole number of at least 1"):
        PrivateDistiller(1.0, **{"method": "psg", name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["seed", "debug_seed"])
def test_seeds_must_be_whole_numbers(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}='a' must be a whole number"):
        PrivateDistiller(1.0, **{name: "a"})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, "1", True])
@pytest.mark.parametrize(
    ("name", "method"), [("epsilon", "dp-dm"), ("noise_multiplier", "dp-dm"), ("max_grad_norm", "psg")]
)
def test_bounds_and_noise_must_be_positive_and_finite(name: str, method: str, value: object) -> None:
    # A zero must not be taken for "not given": no noise at all, or the method's own bound, would follow.
    options = {"budget": PrivacyBudget(2, 1e-5), "method": method, name: value}
    with pytest.raises(ConfigError, match=f"{name}=.* must be a positive finite number"):
        PrivateDistiller(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0, math.nan, "1e-5"])
def test_a_delta_must_lie_between_0_and_1(delta: object) -> None:
    with pytest.raises(ConfigError, match="must be a number between 0 and 1"):
        PrivateDistiller(1.0, delta)  # type: ignore[arg-type]


@pytest.mark.parametrize("counts", [torch.tensor([12, 12, 12]), (12, 12, 12)])
def test_label_counts_may_be_an_array(counts: Any) -> None:
    assert len(distiller(label_counts=counts).fit(records())) == 6


@pytest.mark.parametrize("counts", ["privat", [1.5, 2, 3], [math.nan], [0], 5, torch.tensor([1.5, 2.0])])
def test_label_counts_are_public_whole_numbers_or_private(counts: object) -> None:
    with pytest.raises(ConfigError, match="must be positive public whole numbers"):
        PrivateDistiller(1.0, label_counts=counts)  # type: ignore[arg-type]


@pytest.mark.parametrize("dataset", [None, 3, object(), {"a": 1}])
def test_what_is_no_dataset_is_refused(dataset: object) -> None:
    with pytest.raises(DataError, match=r"fit\(\) got a"):
        distiller().fit(dataset)


@pytest.mark.parametrize("wrong", ["file", "below a file", "number", "earlier release"])
def test_a_folder_that_cannot_take_the_release_is_refused_before_it_is_paid_for(wrong: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "privacy.json").write_text("mine")
    out: Any = {
        "file": tmp_path / "file",
        "below a file": tmp_path / "file" / "deeper" / "out",
        "number": 5,
        "earlier release": tmp_path / "old",
    }[wrong]
    budget = PrivacyBudget(2, 1e-5, "rdp")
    with pytest.raises(ConfigError, match=r"another folder|another one|must be the path of a folder"):
        distiller(budget=budget).fit(records(), out=out)
    assert budget.ledger == ()
    assert (tmp_path / "file").read_text() == (tmp_path / "old" / "privacy.json").read_text() == "mine"


def test_a_fit_that_fails_gives_back_what_it_did_not_ask() -> None:
    budget = PrivacyBudget(2, 1e-5, "rdp")
    with pytest.raises(ConfigError):
        distiller("psg", budget=budget, objective={"name": "trajectory"}).fit(records())
    assert budget.ledger == ()
    distiller(budget=budget).fit(records())
    assert 1.97 < budget.spent() <= 2


def test_an_evaluation_on_held_out_records_is_refused() -> None:
    watch = PeriodicEvaluation(records(seed=1), 1)
    with pytest.raises(ConfigError, match="without noise"):
        distiller(callbacks=[watch])


def test_an_epsilon_out_of_reach_is_refused_before_any_query() -> None:
    budget = PrivacyBudget(1e-4, 1e-5, "rdp")
    with pytest.raises(ConfigError, match="cannot be reached"):
        distiller(budget=budget).fit(records())
    assert budget.ledger == ()


@pytest.mark.parametrize(
    ("leak", "words"),
    [
        ({"init": "real"}, "init=real starts from private images"),
        ({"init": "kmeans"}, "init=kmeans starts from private images"),
        ({"init": "mean"}, "init=mean starts from private images"),
        ({"zca": "pixels"}, "zca=pixels is fitted on private images"),
        ({"model": "convnet:norm=batch,width=4,depth=1"}, "batch norm"),
        ({"networks_": "real-trained"}, "trained on private images"),
        ({"augmentation": "flip"}, "one release for all steps"),
        ({"synthesis": "gan", "init": "prior"}, "a generator that was trained on real ones"),
    ],
)
def test_settings_that_would_leak_are_refused_before_any_query(leak: dict[str, Any], words: str) -> None:
    budget = PrivacyBudget(2, 1e-5, "rdp")
    if "networks_" in leak:
        made = distiller("dp-dm-iterated", budget=budget)
        made.overrides = {"networks": leak["networks_"]}
    else:
        made = distiller(budget=budget, **leak)
    with pytest.raises(ConfigError, match=words):
        made.fit(records())
    assert budget.ledger == ()


def test_pieces_that_were_given_as_objects_are_known_by_their_names() -> None:
    made = distiller("dp-dm-iterated")
    config = made._distiller(records(), 2).configure(records())
    for name in ("ExpertTrajectories", "RealTrainedNetworks"):
        piece = config.networks.model_copy(update={"name": name})
        with pytest.raises(ConfigError, match="trained on private images"):
            refuse(config.model_copy(update={"networks": piece}), records(), augments=True)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("mtt", "experts are trained on the real images"),
        ("herding", "returns real images"),
        ("dd", "has no private form"),
        ("nonsense", "unknown private method"),
    ],
)
def test_methods_without_a_private_form_are_refused_with_the_reason(method: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        PrivateDistiller(1.0, method=method)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "epsilon is missing"),
        ({"epsilon": 1.0, "noise_multiplier": 2.0}, "contradict each other"),
        ({"epsilon": 1.0, "adjacency": "replace-one"}, "adding or removing one record"),
        ({"epsilon": 1.0, "accountant": "gdp"}, "unknown accountant"),
        ({"epsilon": 1.0, "max_grad_norm": 1.0}, "no meaning for dp-dm"),
        ({"epsilon": 1.0, "method": "psg", "label_counts": "private"}, "one release of dp-dm"),
        ({"budget": PrivacyBudget(1, 1e-5), "delta": 1e-6}, "belong to the budget"),
        ({"budget": 3.0}, "must be a PrivacyBudget"),
        ({"epsilon": 1.0, "signal": "real"}, "leave signal out"),
        ({"epsilon": 1.0, "signal": "representative"}, "leave signal out"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        PrivateDistiller(**options)


def test_a_fit_leaves_global_random_state_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    distiller("psg").fit(records())
    assert torch.equal(before, torch.get_rng_state())


def test_records_are_not_read_outside_of_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    real = records()
    made = distiller()
    reads: list[int] = []
    plain = RealData.batch

    def watched(self: RealData, index: torch.Tensor) -> torch.Tensor:
        if len(self) == len(real):
            reads.append(len(index))
        return plain(self, index)

    monkeypatch.setattr(RealData, "batch", watched)
    made.fit(real)
    assert reads == [36]  # one query, one chunk


def test_without_opacus_the_import_says_what_to_install() -> None:
    program = "import sys; sys.modules['opacus'] = None\nimport ddkit.integrations.private"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].endswith("run `pip install 'ddkit[private]'`")
