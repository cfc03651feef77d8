"""From a number of bytes to a set: what is chosen, on which images, and the promise that holds at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ddkit import Distiller, data, methods
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData
from ddkit.engine import choosing, planning, promise
from ddkit.errors import ConfigError
from ddkit.evaluation import form_search
from ddkit.evaluation.coded_reals import coded_forms
from ddkit.evaluation.form_search import Tried
from ddkit.testing import toy_data
from ddkit.training.judge import Judge
from tests.engine.runs import SMALL, Kill

QUICK: dict[str, Any] = {key: value for key, value in SMALL.items() if key != "optimiser"}


@pytest.fixture(scope="module")
def digits() -> RealData:
    return data.load("digits", "train")


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let networks see few images."""
    monkeypatch.setattr(promise, "PASSES", 100)
    monkeypatch.setattr(promise, "EPOCHS", 1)


@pytest.fixture
def one_form(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Let two bits be the best form, and keep what was asked."""
    asked: list[tuple[Any, ...]] = []

    def best(real: RealData, available: int, forms: Any, **options: Any) -> list[Tried]:
        asked.append((real, available, forms, options))
        return [Tried("uniform:bits=2", 3, 0.5)]

    monkeypatch.setattr(form_search, "best_form", best)
    return asked


def configured(name: str, real: RealData, limit: int | None, ipc: int | None = None, **overrides: Any) -> Any:
    return planning.configure(name, real, ipc, limit, 0, {**QUICK, **overrides})


def test_the_most_images_that_fit_are_taken(digits: RealData) -> None:
    part, _ = promise.held_out(digits, 0)
    config = configured("dm", digits, 900, codec="uniform:bits=2")
    assert (config.bytes, config.init) == (900, "herded")
    for count, fits in ((config.ipc, True), (config.ipc + 1, False)):
        real = Distiller("dm", count, codec="uniform:bits=2", init="herded", **{**QUICK, "steps": 0}).fit(part)
        assert (real.budget.payload <= 900) == fits


@pytest.mark.parametrize(("better", "init"), [("herded", "herded"), ("random", "real")])
def test_a_start_is_of_those_real_images_that_are_worth_more(
    digits: RealData, better: str, init: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: dict[str, DistilledDataset] = {}

    def judged(sets: Any, images: RealData, config: Any, share: float = 1.0) -> tuple[str, dict[str, Any]]:
        compared.update(sets)
        part, _ = promise.held_out(digits, 0)
        assert images.fingerprint == promise.held_out(part, 0)[1].fingerprint
        return better, {"accuracies": {name: [0.5] for name in sets}}

    monkeypatch.setattr(promise, "better", judged)
    config = configured("dm", digits, 900, codec="uniform:bits=2")
    assert config.init == init and set(compared) == {"herded", "random"}
    assert not torch.equal(compared["herded"].images, compared["random"].images)
    assert all(one.budget.payload is not None and 0 < one.budget.payload <= 900 for one in compared.values())
    compared.clear()
    assert configured("dm", digits, 900, codec="uniform:bits=2", init="mean").init == "mean" and not compared


def test_the_codec_is_chosen_on_training_images_that_the_promise_does_not_hold_out(
    digits: RealData, one_form: list[tuple[Any, ...]]
) -> None:
    config = configured("dm", digits, 900)
    assert config.codec is not None and config.codec.text == "uniform:bits=2"
    ((real, available, forms, options),) = one_form
    part, out = promise.held_out(digits, 0)
    assert real.fingerprint == part.fingerprint and len(part) + len(out) == len(digits)
    assert available == 900 and set(forms) == set(coded_forms())
    assert options["model"] == QUICK["model"]


def test_a_formation_factor_takes_the_place_of_the_resolution(
    digits: RealData, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [Tried("uniform:bits=3,resolution=2", 3, 0.5)]
    monkeypatch.setattr(form_search, "best_form", lambda *given, **options: found)
    with pytest.warns(UserWarning, match="factor 2"):
        config = planning.configure("idc", digits, None, 2000, 0, {"model": QUICK["model"], "steps": 1})
    assert config.codec is not None and config.codec.options == {"bits": 3}
    assert config.synthesis.options["factor"] == 2


@pytest.fixture
def two_compositions(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Let ``auto`` have two compositions, the last set judged be the best, and keep the names of what was judged."""
    judged: list[tuple[str, ...]] = []

    def better(sets: Any, images: RealData, config: Any, share: float = 1.0) -> tuple[str, dict[str, Any]]:
        found = {"accuracies": {name: [0.5] for name in sets}}
        if "herded" in sets:  # where to start is not what auto tries
            return "herded", found
        judged.append(tuple(sets))
        return judged[-1][-1], found

    monkeypatch.setattr(promise, "better", better)
    pool = {"networks": {"name": "pool", "runs": 1, "stages": 2, "steps": 2}, "signal": {"name": "cached", "images": 5}}
    fixed = {"networks": {"name": "fixed", "count": 2}, "signal": {"name": "cached", "images": 5}}
    pieces = {"one": {**fixed, "optimiser": {"lr": 1.0}}, "two": {**pool, "optimiser": {"lr": 10.0}}}
    monkeypatch.setattr(choosing, "COMPOSITIONS", pieces)
    return judged


def test_auto_is_a_preset_with_the_best_of_its_compositions(
    digits: RealData, one_form: list[tuple[Any, ...]], two_compositions: list[tuple[str, ...]]
) -> None:
    config = configured("auto", digits, 900)
    assert (config.method, config.optimiser.lr, config.networks.name) == ("dm", 10.0, "pool")
    compositions, fills = two_compositions
    assert compositions == ("one", "two")
    assert fills[0] == "two" and [name.split(",")[0] for name in fills[1:]] == ["codec uniform:bits=2"] * 2
    assert configured("auto", digits, 900, optimiser={"lr": 0.5}).optimiser.lr == 0.5
    assert two_compositions[2] == ("one", "two")
    config = configured("auto", digits, 900, optimiser={"lr": 0.5}, networks={"name": "fixed", "count": 3}, fill=1.0)
    assert (config.optimiser.lr, config.networks.options["count"]) == (0.5, 3)
    assert not two_compositions[4:]  # nothing to compare


def test_auto_takes_the_best_composition_in_the_best_form(
    digits: RealData, two_compositions: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [
        ("uniform:bits=1", 2),
        ("uniform:bits=2", 2),
        ("uniform:bits=3", 2),
        ("dct:step=2.0", 2),
        ("dct:step=1.0", 1),
    ]
    found = [Tried(name + ",resolution=2" * (resolution > 1), 3, 0.5) for name, resolution in names]
    monkeypatch.setattr(form_search, "best_form", lambda *given, **options: found)
    config = configured("auto", digits, 2000)
    first, second, third = two_compositions
    assert first == ("one", "two") and second[0] == "two" and third[0] == second[-1]
    assert [name.rpartition(", ")[0] for name in second[1:]] == [
        "codec uniform:bits=2,resolution=2",
        "codec uniform:bits=3,resolution=2",
        "codec dct:step=1.0",
    ]
    counts = [int(name.rpartition(", ")[2].split()[0]) for name in third]
    assert counts[1] > counts[0] > counts[2] and config.ipc == counts[2] and config.fill == 0.5
    assert config.codec is not None and config.codec.text == "dct:step=1.0"
    assert config.networks.name == "pool"


def test_networks_with_batch_norm_get_what_is_left(
    digits: RealData, one_form: list[tuple[Any, ...]], two_compositions: list[tuple[str, ...]]
) -> None:
    config = configured("auto", digits, 900, model="convnet:width=4,depth=1,norm=batch")
    assert (config.networks.name, config.signal.name, two_compositions) == ("fresh", "real", [])


def test_auto_takes_the_bytes_of_as_many_real_images(
    digits: RealData, one_form: list[tuple[Any, ...]], two_compositions: list[tuple[str, ...]]
) -> None:
    assert configured("auto", digits, None, ipc=3).bytes == 3 * 10 * 64
    assert planning.raw_bytes(digits, 10**6) == len(digits) * 64


@pytest.mark.parametrize(
    ("name", "limit", "overrides", "words"),
    [
        ("dm", 20, {"codec": "uniform:bits=2"}, "20 does not hold one image of each of 10 classes, which takes"),
        ("dm", 3, {}, "3 bytes do not hold one real image of each of 10 classes"),
        ("random", 500, {}, "picks real images"),
        ("dm", 500, {"codec": "uniform:bits=12"}, "bits"),
        ("dn", 500, {}, "dm"),
    ],
)
def test_budgets_that_make_no_sense_are_refused(
    digits: RealData, name: str, limit: int, overrides: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        configured(name, digits, limit, **overrides)


def test_bytes_or_images_are_needed_with_a_method() -> None:
    with pytest.raises(ConfigError, match="ipc is missing"):
        Distiller()
    with pytest.raises(ConfigError, match="complete configuration"):
        Distiller(configured("dm", toy_data(), None, ipc=1), bytes=100)


@pytest.mark.parametrize("accuracies", [(0.7, 0.6), (0.6, 0.7), (0.6, 0.6)])
def test_the_better_of_result_and_start_is_returned(
    accuracies: tuple[float, float], little: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = iter((0.6, 0.5, *accuracies))  # herded images are worth more than random ones
    monkeypatch.setattr(Judge, "accuracies", lambda self, images, labels, recipe, seeds: [next(given)] * len(seeds))
    options: dict[str, Any] = {**SMALL, "codec": "uniform:bits=3", "optimiser": {"lr": 10.0}}
    made = Distiller("dm", bytes=250, **options).fit(toy_data(), out=tmp_path / "run")
    _, out = promise.held_out(toy_data(), 0)
    card = made.card.promise
    assert card is not None and card.held_out == len(out)
    assert card.accuracies == {"distilled": [accuracies[0]] * 3, "start": [accuracies[1]] * 3}
    ipc = made.ipc
    assert ipc is not None
    start = Distiller("dm", ipc, **{**options, "init": "herded", "steps": 0}).fit(toy_data())
    kept = "start" if accuracies[1] > accuracies[0] else "distilled"
    assert card.returned == kept
    assert torch.equal(made.images, start.images) == (kept == "start")
    assert ("picked again from all" in (made.card.selection or "")) == (kept == "start")
    assert (made.card.selection or "").startswith("coded start" if kept == "start" else "last step")
    assert made.budget.payload is not None and made.budget.payload <= 250
    assert DistilledDataset.load(tmp_path / "run").metadata["promise"] == made.metadata["promise"]


def test_a_result_stands_against_a_start_that_takes_all_of_the_bytes(
    little: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[dict[str, int]] = []

    def better(sets: Any, images: RealData, config: Any, share: float) -> tuple[str, dict[str, Any]]:
        compared.append({name: one.ipc for name, one in sets.items()})
        return "start", {"accuracies": {name: [0.5] for name in sets}, "held_out": 1, "returned": "start"}

    monkeypatch.setattr(promise, "better", better)
    options: dict[str, Any] = {**SMALL, "codec": "uniform:bits=3", "init": "herded"}
    made = {fill: Distiller("dm", bytes=400, fill=fill, **options).fit(toy_data()) for fill in (0.5, 1.0)}
    sparing, full = compared
    assert sparing["distilled"] < sparing["start"] == full["start"] == full["distilled"]
    assert torch.equal(made[0.5].images, made[1.0].images)
    given = Distiller("dm", 2, bytes=400, **options).fit(toy_data())
    assert compared[2] == {"distilled": 2, "start": 2} and given.ipc == 2


@pytest.mark.parametrize("limit", [None, 400])
def test_a_share_of_the_bytes_and_a_number_of_images_exclude_each_other(limit: int | None) -> None:
    with pytest.raises(ConfigError, match="--ipc says how many"):
        Distiller("dm", 2, bytes=limit, fill=0.5, **SMALL).fit(toy_data())


def test_held_out_images_are_neither_distilled_nor_picked(little: None) -> None:
    real = toy_data()
    seen: list[int] = []
    images = {image.numpy().tobytes(): number for number, image in enumerate(real.images)}
    _, out = promise.held_out(real, 0)
    batch = RealData.batch

    def watched(self: RealData, index: torch.Tensor) -> torch.Tensor:
        seen.extend(images[image.numpy().tobytes()] for image in self.images[index])
        return batch(self, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RealData, "batch", watched)
        patch.setattr(promise, "better", lambda sets, images, config, share: ("distilled", {"accuracies": {}}))
        patch.setattr(promise, "in_words", lambda card, whose, again: "nothing")
        Distiller("dm", 2, bytes=250, **{**SMALL, "codec": "uniform:bits=3", "init": "herded"}).fit(real)
    held = {images[image.numpy().tobytes()] for image in out.images}
    assert seen and not held & set(seen)


def test_the_same_seed_gives_the_same_bytes_and_a_killed_run_goes_on_to_them(little: None, tmp_path: Path) -> None:
    options: dict[str, Any] = {**SMALL, "codec": "uniform:bits=2"}
    whole = Distiller("dm", bytes=200, **options).fit(toy_data())
    assert Distiller("dm", bytes=200, **options).fit(toy_data()).to_bytes() == whole.to_bytes()
    with pytest.raises(KeyboardInterrupt):
        Distiller("dm", bytes=200, callbacks=[Kill(5)], checkpoint_every=2, **options).fit(
            toy_data(), out=tmp_path / "r"
        )
    resumed = Distiller("dm", bytes=200, **options).fit(toy_data(), out=tmp_path / "r", resume=True)
    assert resumed.to_bytes() == whole.to_bytes()


def test_the_held_out_part_follows_from_the_seed(digits: RealData) -> None:
    first, again, other = (promise.held_out(digits, seed)[1].fingerprint for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(("ipc", "factor", "shown"), [(2, 1, 19_998), (250, 2, 90_000), (3000, 2, 180_000)])
def test_a_judge_counts_what_networks_see(ipc: int, factor: int, shown: int) -> None:
    """20,000 images of small sets, thirty epochs of larger ones, and of the largest whole epochs of 200,000."""
    options = {"synthesis": {"name": "multi-formation", "factor": factor}, "init": "real"}
    config = methods.get("dm").configure(toy_data(), ipc, 0, {**QUICK, **options})
    assert promise.judge_of(2, toy_data(), config).passes == 2 * promise.NETWORKS * shown
    half = promise.judge_of(2, toy_data(), config, 0.5).passes
    assert half <= promise.NETWORKS * shown
    if ipc > 2:  # one network, which sees the whole of it
        assert half == 2 * shown and promise.judge_of(2, toy_data(), config, 0.1).passes <= 0.1 * 6 * shown


def test_what_is_compared_fits_a_quarter_of_the_minutes() -> None:
    """Also where fewer images are not worth compiling for; without minutes all are shown."""
    real = toy_data(shape=(3, 32, 32))
    config = methods.get("dm").configure(real, 300, 0, {**QUICK, "model": "convnet"})
    whole = promise.judge_of(2, real, config).seconds
    for minutes in (whole / 20, whole / 60, whole / 100):
        share = promise.share_of(minutes, real, config)
        assert 0 < share < 1 and promise.seconds(minutes, real, config) <= 60 * promise.COMPARING * minutes * 1.1
    assert promise.share_of(None, real, config) == promise.share_of(whole, real, config) == 1.0
    assert promise.seconds(None, real, config) == whole
