"""Expert trajectories as a network source: which experts are taken, what is drawn, what is refused."""

from __future__ import annotations

import shutil
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from ddkit import augment
from ddkit.base.streams import Streams
from ddkit.data import RealData
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.preprocessing import Preprocessing
from ddkit.engine import Distiller
from ddkit.errors import CheckpointError, ConfigError, DataError
from ddkit.models import ModelSpec
from ddkit.networks import ExpertTrajectories, Network, RealSignal, Signal, registry
from ddkit.objectives import Context
from ddkit.testing import small_overrides, toy_data
from ddkit.training.experts import ExpertBuffer, ExpertSettings, build_buffer
from tests.engine.runs import Kill
from tests.networks.bench import ready, same_after_resuming, weights

MODEL = "convnet:width=4,depth=1"  # that of the bench
SMALL = {"count": 2, "epochs": 3, "lr": 0.1, "batch_size": 8}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experts")
    build_buffer(toy_data(), folder, ExpertSettings(model=MODEL, epochs=5, lr=0.1, batch_size=8), 3)
    return folder


def given(made: Path, **options: Any) -> ExpertTrajectories:
    return ready(ExpertTrajectories(buffer=str(made), **options))[0]


def test_segment_is_two_rows_of_one_expert(made: Path) -> None:
    source, buffer = given(made), ExpertBuffer(made)
    for _ in range(20):
        segment = source.segment(3, 2)
        assert torch.equal(segment.start, buffer.weights(segment.expert, segment.epoch))
        assert torch.equal(segment.target, buffer.weights(segment.expert, segment.epoch + 2))
        assert segment.start.dtype == segment.target.dtype == torch.float32


def test_segments_are_drawn_uniformly_over_experts_and_starts(made: Path) -> None:
    source, draws = given(made), 900
    seen = Counter((s.expert, s.epoch) for s in (source.segment(2, 3) for _ in range(draws)))
    assert set(seen) == {(expert, epoch) for expert in range(3) for epoch in range(2)}
    expected = draws / 6
    assert (
        sum((count - expected) ** 2 / expected for count in seen.values()) < 20.5
    )  # chi-squared, 5 degrees, p = 0.001


def test_weights_are_in_the_order_of_the_parameters_of_the_network(made: Path) -> None:
    source = given(made)
    seen = [weights(source) for _ in range(30)]
    rows = [source.weights(expert, epoch) for expert in range(3) for epoch in range(6)]
    assert all(any(torch.equal(row, other) for other in rows) for row in seen)
    assert source.age() == (29, 0)
    module = source.network.spec.build((1, 8, 8), 3, seed=0)
    torch.nn.utils.vector_to_parameters(present := weights(source), module.parameters())
    images = source.setting.signal.whole().batch(torch.arange(5))
    torch.testing.assert_close(source.network.logits(images), module(images))
    assert len(present) == sum(p.numel() for p in module.parameters())


def test_experts_are_trained_in_the_folder_of_the_run_and_found_there_again(tmp_path: Path) -> None:
    source, _ = ready(ExpertTrajectories(**SMALL), strategy="crop_scale")
    source.setting.folder = tmp_path
    seen: list[tuple[str, int, int]] = []
    source.prepare(lambda *step: seen.append(step))
    assert seen[-1] == ("training experts (2 of 3 epochs, 0 MB in all)", 6, 6)
    buffer = ExpertBuffer(tmp_path / "experts")
    assert (buffer.count, buffer.epochs, buffer.settings.augmentation) == (2, 3, "crop_scale")
    again, _ = ready(ExpertTrajectories(**SMALL), strategy="crop_scale")
    again.setting.folder = tmp_path
    seen.clear()
    again.prepare(lambda *step: seen.append(step))
    assert seen == []
    assert again.metadata() == source.metadata()


def test_experts_of_a_run_follow_from_its_seed() -> None:
    digests = [ready(ExpertTrajectories(**SMALL), seed)[0].metadata()["digest"] for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


def test_training_draws_from_no_stream_of_the_run() -> None:
    source, _ = ready(ExpertTrajectories(**SMALL))
    source.prepare(lambda what, done, total: None)
    assert source.streams.state_dict() == {}


def test_experts_are_trained_for_as_many_epochs_as_the_objective_reads() -> None:
    source, _ = ready(ExpertTrajectories(count=1, lr=0.1))
    source.require_epochs(4)
    source.require_epochs(2)
    assert source.epochs == source.settings().epochs == 4
    source.segment(3, 2)
    with pytest.raises(ConfigError, match="4 epochs, but epoch 5 is read"):
        source.segment(4, 2)


def test_augmentation_of_the_experts_is_that_of_the_matching_or_their_own() -> None:
    for own, expected in ((None, "crop"), ("none", "none"), ("scale", "scale")):
        source, _ = ready(ExpertTrajectories(augmentation=own), strategy="crop")
        assert source.settings().augmentation == expected
    source, _ = ready(ExpertTrajectories())
    source.augmentation = augment.create("crop", crop_ratio=0.25)
    assert source.settings().augmentation_options == {"crop_ratio": 0.25}


def test_buffer_with_too_few_epochs_is_refused_when_the_objective_is_set_up(made: Path) -> None:
    given(made).require_epochs(5)
    with pytest.raises(ConfigError, match="the experts have 5 epochs, but epoch 6 is read"):
        given(made).require_epochs(6)
    with pytest.raises(ConfigError, match="the experts have 3 epochs, but epoch 4 is read"):
        given(made, epochs=3).require_epochs(4)
    with pytest.raises(ConfigError, match="the experts have 5 epochs, but epoch 9 is read"):
        given(made, epochs=9)


@pytest.mark.parametrize(
    "option",
    [
        {"rho": 0.5},
        {"alpha": 0.3},
        {"adaptive": False},
    ],
)
def test_buffer_of_another_flatness_is_refused_unless_its_own_is_named(made: Path, option: dict[str, Any]) -> None:
    ((name, value),) = option.items()
    theirs = getattr(ExpertBuffer(made).settings, name)
    with pytest.raises(
        ConfigError, match=f"networks.{name}={value}, but the experts in .* trained with {name}={theirs}"
    ):
        given(made, **option)
    assert given(made, **{name: theirs}).count == 3


@pytest.mark.parametrize("option", [{"lr": 0.2}, {"batch_size": 9}, {"augmentation": "crop"}, {"dtype": "float16"}])
def test_given_buffer_says_itself_how_its_experts_were_trained(made: Path, option: dict[str, Any]) -> None:
    ((name, _),) = option.items()
    assert given(made, **option).metadata()["settings"][name] == getattr(ExpertBuffer(made).settings, name)


def refuse(made: Path, message: str, data: RealData | None = None, model: str = MODEL) -> None:
    data, streams = data or toy_data(), Streams(0)
    source, augmentation, signal = ExpertTrajectories(buffer=str(made)), augment.create("none"), RealSignal()
    signal.setup(data, streams, augmentation, 4)
    network = Network(ModelSpec.parse(model), data.shape, data.num_classes)
    with pytest.raises(ConfigError, match=message):
        source.setup(Context(data.num_classes, signal, network, augmentation, streams, networks=source))


def test_buffer_that_does_not_fit_the_run_is_refused_with_both_sides(made: Path) -> None:
    refuse(made, r"model convnet\(depth=1,width=4\), this run has convnet\(depth=2,width=4\)", None, MODEL[:-1] + "2")
    refuse(made, "number of classes 3, this run has 2", toy_data(counts=(9, 9)))
    refuse(made, r"image shape \(1, 8, 8\), this run has \(3, 8, 8\)", toy_data(shape=(3, 8, 8)))
    refuse(made, "34 images of 'toy'.*this run has 34 of 'toy'", toy_data(seed=3))
    other = toy_data().with_preprocessing(Preprocessing((0.2,), (0.3,)))
    refuse(made, r"this run has mean 0\.2000, std 0\.3000", other)
    refuse(made, "uses batch norm", None, f"{MODEL},norm=batch")


def test_signal_that_hands_out_no_images_is_refused(made: Path) -> None:
    class Closed(RealSignal):
        whole = Signal.whole

    source, data, streams = ExpertTrajectories(buffer=str(made)), toy_data(), Streams(0)
    network = Network(ModelSpec.parse(MODEL), data.shape, data.num_classes)
    with pytest.raises(ConfigError, match="Closed"):
        source.setup(Context(data.num_classes, Closed(), network, augment.create("none"), streams, networks=source))


def test_expert_that_stands_still_is_an_error(tmp_path: Path) -> None:
    build_buffer(toy_data(), tmp_path, ExpertSettings(model=MODEL, epochs=2, lr=1e-30), 1)
    with pytest.raises(DataError, match=r"expert 0 does not move from epoch 0 to 2.*higher lr \(now 1e-30\)"):
        given(tmp_path).segment(1, 2)


@pytest.mark.parametrize("before", [0, 1, 5])
def test_resumed_source_goes_on_with_the_same_experts(made: Path, before: int) -> None:
    same_after_resuming(ExpertTrajectories, {"buffer": str(made)}, before, 5)


def test_grown_buffer_changes_nothing_for_a_run_that_goes_on(made: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "grown"))
    state = given(made).state_dict()
    build_buffer(toy_data(), folder, ExpertBuffer(made).settings, 4)
    source = given(folder)
    assert source.count == 4
    source.load_state_dict(state)
    assert source.count == 3
    assert given(folder, count=3).metadata() == given(made).metadata()


def test_run_does_not_go_on_with_other_experts(made: Path, tmp_path: Path) -> None:
    build_buffer(toy_data(), tmp_path, ExpertSettings(model=MODEL, epochs=5, lr=0.1, batch_size=8, seed=9), 3)
    with pytest.raises(CheckpointError, match="are not those that this run started with"):
        given(tmp_path).load_state_dict(given(made).state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "networks.count=0"),
        ({"epochs": 0}, "networks.epochs=0"),
        ({"lr": -1.0}, "lr=-1.0"),
        ({"rho": -1.0}, "rho=-1.0"),
        ({"augmentation": "crp"}, "did you mean 'crop'"),
        ({"dtype": "int8"}, "dtype='int8'"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        registry.create("experts", options)


def run(made: Path | None, **fit: Any) -> DistilledDataset:
    networks = {"name": "experts", **({"buffer": str(made)} if made else SMALL)}
    options = {**small_overrides("dm", toy_data(), ipc=1), "model": MODEL, "networks": networks, "steps": 6}
    return Distiller("dm", 1, callbacks=fit.pop("callbacks", ()), checkpoint_every=1, **options).fit(toy_data(), **fit)


@pytest.mark.parametrize("with_buffer", [True, False])
def test_distribution_matching_on_checkpoints_of_experts_survives_a_kill(
    made: Path, tmp_path: Path, with_buffer: bool
) -> None:
    buffer = made if with_buffer else None
    whole, out = run(buffer, out=tmp_path / "whole"), tmp_path / "run"
    assert set(whole.metadata["networks"]) == {"experts", "epochs", "settings", "digest"}
    with suppress(KeyboardInterrupt):
        run(buffer, out=out, callbacks=[Kill(3)])
    assert torch.equal(run(buffer, out=out, resume=True).images, whole.images)
    assert torch.equal(run(buffer).images, whole.images)
