"""The outer loop: schedule, divergence, interruption, threads, and pieces of one's own."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ddkit.base.config import DistillConfig
from ddkit.base.progress import Report
from ddkit.data import Preprocessing, RealData
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.engine import Callback, Distiller, Run
from ddkit.errors import ConfigError, DataError, DDKitError, DivergedError, InterruptedRunError
from ddkit.methods.dc import loops
from ddkit.networks import FreshNetworks, RealSignal, SyntheticTrainedNetworks
from ddkit.networks.signal import Signal
from ddkit.objectives import Objective
from ddkit.synthesis import Synthesizer, registry

from .runs import LOOPS, SMALL, loops_of, small, toy_data


class Counting(RealSignal):
    """Counts every query and keeps which classes were asked for."""

    def __init__(self) -> None:
        self.queries: Counter[str] = Counter()
        self.classes: list[list[int]] = []

    def feature_means(self, network, classes, draws):
        self.queries["feature_means"] += 1
        self.classes.append(classes.tolist())
        return super().feature_means(network, classes, draws)

    def gradients(self, network, classes, draws, names, class_chunk):
        self.queries["gradients"] += 1
        self.classes.append(classes.tolist())
        return super().gradients(network, classes, draws, names, class_chunk)

    def refresh_statistics(self, network):
        self.queries["refresh_statistics"] += 1
        super().refresh_statistics(network)

    def state_dict(self):
        return {"queries": dict(self.queries)}

    def load_state_dict(self, state):
        self.queries = Counter(state["queries"])


class Silent(Signal):
    """Answers every query with zeros and never looks at the data."""

    def feature_means(self, network, classes, draws):
        return torch.zeros(len(classes), network.features(torch.zeros(1, *network.shape)).shape[1])

    def gradients(self, network, classes, draws, names, class_chunk):
        weights = dict(network.module.named_parameters())
        return [torch.zeros(len(classes), *weights[name].shape) for name in names]

    def refresh_statistics(self, network):
        pass


class PullToZero(Objective):
    """A user's objective: half the squared norm of all images."""

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def backward(self, synthesizer: Synthesizer) -> dict[str, float]:
        loss = 0.5 * self.weight * synthesizer()[0].square().sum()
        loss.backward()
        return {"loss": loss.item()}


class Doubled(Synthesizer):
    """A user's synthesizer: one code per class is decoded into itself and its mirror image."""

    name = "test-doubled"

    def __init__(self, num_classes: int, ipc: int, shape: tuple[int, int, int]) -> None:
        super().__init__(num_classes, ipc, shape, decoded_per_class=2 * ipc)
        self.codes = nn.Parameter(torch.zeros(num_classes, ipc, *shape))

    def decode(self, index: Tensor) -> Tensor:
        return torch.cat([self.codes, self.codes.flip(-1)], dim=1).flatten(0, 1)[index]

    def initialise(self, real: RealData, how: str, generator: torch.Generator) -> None:
        with torch.no_grad():
            self.codes.copy_(torch.randn(self.codes.shape, generator=generator))

    def stored(self) -> dict[str, Tensor]:
        return {"codes": self.codes.detach(), "labels": self.stored_labels()}

    @staticmethod
    def from_stored(stored: Mapping[str, Tensor], options: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        codes = stored["codes"]
        return torch.cat([codes, codes.flip(-1)], dim=1).flatten(0, 1), stored["labels"]


class OneNetwork(FreshNetworks):
    """A user's network source: the same network all the time."""

    def current(self):
        self.network.reset(1)
        return self.network


@pytest.mark.parametrize(("ipc", "image_steps", "epochs"), [(1, 1, 0), (10, 10, 450), (50, 50, 490)])
def test_one_network_sees_the_published_number_of_steps_and_epochs(ipc, image_steps, epochs, monkeypatch) -> None:
    count: Counter[str] = Counter()

    def count_epochs(*_: Any, epochs: int, **__: Any) -> None:
        count["epochs"] += epochs

    monkeypatch.setattr("ddkit.networks.sources.train_epochs", count_epochs)
    monkeypatch.setattr("ddkit.networks.Network.reset", lambda self, seed: count.update(["networks"]))
    config = Distiller("dc", ipc=ipc).configure(toy_data())
    iterations = 2 if ipc < 50 else 1
    assert config.steps == 1000 * image_steps
    options = config.networks.options
    distiller = small("dc", ipc, steps=iterations * image_steps, networks=options, model="convnet:width=1,depth=1")
    distilled = distiller.fit(toy_data())
    assert distilled.metadata["steps"] == iterations * image_steps
    assert count["networks"] == iterations
    assert count["epochs"] == iterations * epochs
    assert loops(ipc)[0] == image_steps


def test_network_trains_on_detached_images(monkeypatch) -> None:
    seen = []

    def spy(network, images, targets, **_: Any) -> None:
        seen.append((images.requires_grad, images.grad_fn, targets.requires_grad))

    monkeypatch.setattr("ddkit.networks.sources.train_epochs", spy)
    small("dc", synthesis={"labels": "learned"}, **LOOPS).fit(toy_data())
    assert seen and set(seen) == {(False, None, False)}


def test_training_the_network_leaves_no_gradient_on_the_images() -> None:
    captured = []

    class Look(Callback):
        def on_step(self, run: Run) -> None:
            captured.append(run.synthesizer.images.grad.clone())

    # The last of two steps is followed by no training, the first one is: both gradients stem from matching only.
    first, second = (small("dc", steps=steps, callbacks=[Look()], **LOOPS).fit(toy_data()) for steps in (1, 2))
    assert torch.equal(captured[0], captured[1])
    assert (first.metadata["steps"], second.metadata["steps"]) == (1, 2)


@pytest.mark.parametrize("method", ["dm", "dc", "dsa"])
def test_classes_of_unequal_size_are_distilled(method: str) -> None:
    distilled = small(method, 1, steps=2, objective={"real_batch": 6}).fit(toy_data(counts=(2, 9, 30)))
    assert distilled.labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("method", ["dm", "dc"])
def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(method: str) -> None:
    runs = [small(method, seed=seed, steps=3, **loops_of(method)).fit(toy_data()).to_bytes() for seed in (4, 4, 5)]
    assert runs[0] == runs[1] != runs[2]


def test_one_distiller_fits_twice_alike() -> None:
    distiller = small("dc", networks=SyntheticTrainedNetworks(outer_loop=4, inner_epochs=1), steps=3)
    assert distiller.fit(toy_data()).to_bytes() == distiller.fit(toy_data()).to_bytes()


@pytest.mark.parametrize("method", ["dm", "dc"])
def test_huge_learning_rate_diverges_and_keeps_the_last_good_checkpoint(method: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    distiller = small(method, checkpoint_every=1, steps=50, optimiser={"lr": 1e30}, **loops_of(method))
    with pytest.raises(
        DivergedError, match=r"diverged.*optimiser\.lr.*checkpoints from before this step are kept"
    ) as error:
        distiller.fit(toy_data(), out=out)
    assert "\n" not in str(error.value) and error.value.exit_status == 1
    from ddkit.base.checkpoint import load_checkpoint

    if (out / "checkpoint.safetensors").exists():
        state = load_checkpoint(out / "checkpoint.safetensors")
        assert state["session"]["synthesizer"]["images"].isfinite().all()
    assert not (out / "distilled.safetensors").exists()


def test_values_that_overflow_in_the_last_update_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="not finite after the update"):
        small(objective=PullToZero(1e20), steps=1, optimiser={"lr": 1e20}).fit(toy_data(), out=tmp_path / "run")
    assert not (tmp_path / "run" / "distilled.safetensors").exists()


def test_scalar_that_is_not_finite_is_named_with_its_step() -> None:
    class Bad(PullToZero):
        def backward(self, synthesizer: Synthesizer) -> dict[str, float]:
            return {**super().backward(synthesizer), "penalty": float("nan")}

    with pytest.raises(DivergedError, match="step 1 of 9 diverged, penalty is nan"):
        small(objective=Bad()).fit(toy_data())


class SendSignal(Callback):
    def __init__(self, step: int, number: int = signal.SIGINT, times: int = 1) -> None:
        self.step, self.number, self.times = step, number, times

    def on_step(self, run: Run) -> None:
        if run.step == self.step:
            for _ in range(self.times):
                signal.raise_signal(self.number)  # two from outside may arrive as one


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_first_signal_saves_and_the_run_can_go_on(number: int, tmp_path: Path) -> None:
    out = tmp_path / "run"
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(InterruptedRunError, match=r"interrupted after step 3 of 9, state saved: .*--resume") as error:
        small(callbacks=[SendSignal(3, number)]).fit(toy_data(), out=out)
    assert error.value.exit_status == 130
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert (out / "checkpoint.safetensors").is_file()
    resumed = small().fit(toy_data(), out=out, resume=True)
    assert resumed.to_bytes() == small().fit(toy_data()).to_bytes()


@pytest.fixture
def python_handles_interrupts() -> Iterator[None]:
    """Give SIGINT Python's own handler, whatever other tests and their libraries have left there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("python_handles_interrupts")
def test_second_signal_stops_the_step_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ddkit.base.interrupt.TOGETHER", 0.0)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(InterruptedRunError, match="in step 4 of 9, state after step 2 saved: go on with"):
        small(callbacks=[SendSignal(3, times=2)], checkpoint_every=2).fit(toy_data(), out=tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is handler
    resumed = small().fit(toy_data(), out=tmp_path / "run", resume=True)
    assert resumed.to_bytes() == small().fit(toy_data()).to_bytes()


def test_two_signals_at_once_count_as_one(tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError, match="after step 3 of 9, state saved"):
        small(callbacks=[SendSignal(3, times=2)]).fit(toy_data(), out=tmp_path / "run")


def test_step_that_does_not_end_is_cut_short_and_the_state_before_it_is_saved(tmp_path: Path, monkeypatch) -> None:
    class Endless(Callback):
        def on_step(self, run: Run) -> None:
            if run.step == 3:
                signal.raise_signal(signal.SIGTERM)
                deadline = time.monotonic() + 60
                while time.monotonic() < deadline:
                    time.sleep(0.01)

    monkeypatch.setattr("ddkit.base.interrupt.PATIENCE", 0.05)
    monkeypatch.setattr("ddkit.engine.resume.LONG_SECONDS", 0.0)
    with pytest.raises(InterruptedRunError, match="state after step 2 saved"):
        small(callbacks=[Endless()]).fit(toy_data(), out=tmp_path / "run")
    resumed = small().fit(toy_data(), out=tmp_path / "run", resume=True)
    assert resumed.to_bytes() == small().fit(toy_data()).to_bytes()


def test_signal_without_a_folder_says_that_nothing_was_kept() -> None:
    with pytest.raises(InterruptedRunError, match="nothing was kept"):
        small(callbacks=[SendSignal(2)]).fit(toy_data())


@pytest.mark.parametrize("steps", [2, 9])
def test_handlers_are_restored_after_any_end(steps: int) -> None:
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    small(steps=steps).fit(toy_data())
    with pytest.raises(DDKitError):
        small(objective=PullToZero(1e20), optimiser={"lr": 1e20}).fit(toy_data())
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


def test_fit_works_in_another_thread() -> None:
    results: list[DistilledDataset] = []
    thread = threading.Thread(target=lambda: results.append(small(steps=3).fit(toy_data())))
    thread.start()
    thread.join(60)
    assert results[0].to_bytes() == small(steps=3).fit(toy_data()).to_bytes()


@pytest.mark.parametrize(("method", "query"), [("dm", "feature_means"), ("dc", "gradients")])
def test_signal_sees_every_query_of_every_class(method: str, query: str) -> None:
    counting = Counting()
    small(method, signal=counting, steps=5, **loops_of(method)).fit(toy_data())
    assert counting.queries[query] == 5
    assert counting.classes == [[0, 1, 2]] * 5


def test_signal_counts_on_after_a_resume(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(InterruptedRunError):
        small(signal=Counting(), callbacks=[SendSignal(4)]).fit(toy_data(), out=out)
    after = Counting()
    small(signal=after).fit(toy_data(), out=out, resume=True)
    assert after.queries["feature_means"] == 9


@pytest.mark.parametrize("method", ["dm", "dc", "dsa"])
def test_real_data_reach_the_objective_through_the_signal_only(method: str) -> None:
    """With a signal that never looks and noise to start from, the real pixels cannot matter."""
    first, other = toy_data(seed=0), toy_data(seed=1).with_preprocessing(toy_data(seed=0).preprocessing)
    results = [
        small(method, signal=Silent(), init="noise", steps=3, **loops_of(method)).fit(data) for data in (first, other)
    ]
    assert not torch.equal(first.images, other.images)
    assert torch.equal(results[0].images, results[1].images)


def test_own_objective_decides_what_is_learned() -> None:
    start = small(objective=PullToZero(), steps=0).fit(toy_data())
    result = small(objective=PullToZero(), steps=1, optimiser={"lr": 0.25, "momentum": 0.0}).fit(toy_data())
    torch.testing.assert_close(result.images, 0.75 * start.images)
    assert result.metadata["config"]["objective"] == {"name": "PullToZero"}


def test_own_synthesizer_is_learned_stored_and_named(tmp_path: Path) -> None:
    registry.register("test-doubled", Doubled)
    try:
        distilled = small("dm", synthesizer=Doubled(3, 2, (1, 8, 8)), init="noise", steps=2).fit(toy_data())
        assert distilled.metadata["config"]["synthesis"] == {"name": "Doubled"}
        assert distilled.synthesis == "test-doubled"
        assert (distilled.budget.images, distilled.budget.decoded_images, len(distilled)) == (6, 12, 12)
        assert distilled.budget.floats == 6 * 64 + 12
        loaded = DistilledDataset.load(distilled.save(tmp_path / "a.safetensors"))
        assert torch.equal(loaded.images, distilled.images)
        assert torch.equal(loaded.images[0].flip(-1), loaded.images[2])
    finally:
        del registry._items["test-doubled"]


def test_own_network_source_is_used_and_named() -> None:
    distilled = small("dm", networks=OneNetwork(), steps=2).fit(toy_data())
    assert distilled.metadata["config"]["networks"] == {"name": "OneNetwork"}
    assert not torch.equal(distilled.images, small("dm", steps=2).fit(toy_data()).images)


@pytest.mark.parametrize("piece", ["synthesis", "objective", "networks", "signal", "constraint"])
def test_a_piece_that_is_none_is_refused(piece: str) -> None:
    given: dict[str, Any] = {piece: [1]}
    with pytest.raises(ConfigError, match=f"{piece} is a list: give a name, options, or a "):
        Distiller("dm", 1, **given)


def test_synthesizer_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="makes 4 classes"):
        small(synthesizer=Doubled(4, 2, (1, 8, 8)), init="noise").fit(toy_data())
    with pytest.raises(ConfigError, match="holds 3 images per class, but ipc=2"):
        small(synthesizer=Doubled(3, 3, (1, 8, 8)), init="noise").fit(toy_data())


def test_unknown_initialisation_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'noise'"):
        small(init="nois").fit(toy_data())


def test_class_without_images_is_refused_by_name() -> None:
    data = toy_data()
    labels = torch.where(data.labels == 2, 1, data.labels)
    sparse = RealData.from_tensors(data.images, labels, num_classes=3, allow_missing=True)
    with pytest.raises(DataError, match="class '2' of 'tensors' has no images"):
        small(init="noise").fit(sparse)


def test_flip_on_digits_is_warned_about() -> None:
    data = toy_data()
    digits = RealData.from_tensors(data.images, data.labels)
    with pytest.warns(UserWarning, match="class names are digits"):
        small(augmentation="flip", steps=1).fit(digits)


def test_average_of_the_path_becomes_the_result() -> None:
    decay, lr = 0.5, 0.5
    options = {"objective": PullToZero(), "optimiser": {"lr": lr, "momentum": 0.0}}
    start = small(**options, steps=0).fit(toy_data()).images
    result = small(**options, steps=3, ema=decay).fit(toy_data()).images
    expected, factor = 1.0, 1.0
    for _ in range(3):
        factor *= 1 - lr
        expected = decay * expected + (1 - decay) * factor
    torch.testing.assert_close(result, expected * start)


def test_learned_labels_move_and_stay_probabilities() -> None:
    distilled = small("dc", synthesis={"labels": "learned"}, optimiser={"groups": {"labels": {"lr": 100.0}}}).fit(
        toy_data()
    )
    assert distilled.label_kind == "soft"
    torch.testing.assert_close(distilled.labels.sum(1), torch.ones(6))
    own = distilled.labels[torch.arange(6), torch.arange(3).repeat_interleave(2)]
    assert bool((own - 0.9).abs().max() > 1e-3)


def test_settings_of_an_unknown_group_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'images'"):
        small(optimiser={"groups": {"image": {"lr": 1.0}}}).fit(toy_data())


def test_complete_configuration_is_run_as_it_is() -> None:
    config = small("dm", seed=3).configure(toy_data())
    again = Distiller(DistillConfig.create(json.loads(json.dumps(config.as_dict()))))
    assert again.fit(toy_data()).to_bytes() == small("dm", seed=3).fit(toy_data()).to_bytes()


def test_bad_arguments_are_refused_with_the_remedy() -> None:
    config = small("dm").configure(toy_data())
    with pytest.raises(ConfigError, match="either a complete configuration or"):
        Distiller(config, ipc=2)
    with pytest.raises(ConfigError, match="ipc is missing"):
        Distiller("dm")
    with pytest.raises(ConfigError, match="checkpoint_every=0"):
        Distiller("dm", 1, checkpoint_every=0)
    with pytest.raises(ConfigError, match="did you mean 'dm'"):
        Distiller("dmm", 1)
    with pytest.raises(ConfigError, match="objective is missing"):
        Distiller(DistillConfig.create({"ipc": 1, **{k: SMALL[k] for k in ("model", "device")}})).fit(toy_data())


@pytest.mark.parametrize(("method", "steps"), [("dm", 1), ("dc", 2)])
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.02)])
def test_compiled_step_equals_the_eager_step(method: str, steps: int, precision: str, tolerance: float) -> None:
    """A step of each, in float32 with the network's training in between for gradient matching."""
    torch._dynamo.reset()
    real = toy_data(counts=(6, 9, 7))
    steps = steps if precision == "float32" else 1
    options = {
        **loops_of(method),
        "model": "convnet:width=4,depth=" + ("1" if method == "dc" else "2"),
        "objective": {"real_batch": 5, "class_chunk": 1 if method == "dc" else 3},
        "init": "noise",
        "augmentation": "none",
        "optimiser": {"lr": 0.1},
    }
    eager, compiled = (
        small(method, steps=steps, precision=chosen, compile=compile, **options).fit(real).images
        for chosen, compile in (("float32", False), (precision, True))
    )
    moved = (eager - small(method, steps=0, **options).fit(real).images).norm()
    assert moved > 1e-3
    assert (compiled - eager).norm() <= tolerance * (eager.norm() if precision == "float32" else moved)


def test_what_is_no_real_data_is_refused_with_the_way_there() -> None:
    with pytest.raises(DataError, match=r"got a Tensor: .* RealData.from_tensors"):
        small().fit(torch.zeros(3, 1, 8, 8))  # type: ignore[arg-type]


class Watch(Callback):
    """Writes down what the engine tells it."""

    def __init__(self) -> None:
        self.order: list[str] = []

    def on_prepare(self, run: Run, what: str, done: int, total: int) -> None:
        self.order.append(f"{what} {done}/{total}")

    def on_start(self, run: Run) -> None:
        self.order.append(f"start {run.seconds > 0}")

    def on_checkpoint(self, run: Run) -> None:
        self.order.append(f"checkpoint {run.step}")

    def on_end(self, run: Run) -> None:
        self.order.append("end")


def test_interrupted_starting_point_says_what_is_kept(tmp_path: Path) -> None:
    class Interrupted(FreshNetworks):
        patient = False

        def prepare(self, report: Report) -> None:
            report("training something", 1, 2)
            if not self.patient:
                raise KeyboardInterrupt

    watch = Watch()
    with pytest.raises(InterruptedRunError, match="before the first step"):
        small(callbacks=[watch], networks=Interrupted()).fit(toy_data(), out=tmp_path / "run")
    assert watch.order == ["training something 1/2", "end"]
    Interrupted.patient = True
    resumed = small(networks=Interrupted()).fit(toy_data(), out=tmp_path / "run", resume=True)
    assert resumed.metadata["steps"] == 9


def test_starting_point_counts_as_time_of_the_run_and_is_saved_after_callbacks_have_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ddkit.engine.resume.STARTING_SECONDS", 0.0)
    watch = Watch()
    small(callbacks=[watch], steps=1).fit(toy_data(), out=tmp_path / "run")
    assert watch.order == ["start True", "checkpoint 0", "end"]


def test_slow_starting_points_say_how_far_they_are() -> None:
    watch = Watch()
    decoders = {"name": "shared-decoders", "warm_steps": 3, "decoders": 2, "hidden": 2, "codes": 2, "code_channels": 1}
    small(callbacks=[watch], steps=1, synthesis=decoders).fit(toy_data())
    assert watch.order[:3] == [f"fitting codes and decoders {done}/3" for done in (1, 2, 3)]


def test_run_folder_keeps_the_last_step_beside_the_average(tmp_path: Path) -> None:
    options = {"objective": PullToZero(), "optimiser": {"lr": 0.5, "momentum": 0.0}, "steps": 6}
    averaged = small(**options, ema=0.5).fit(toy_data(), out=tmp_path / "averaged")
    plain = small(**options).fit(toy_data(), out=tmp_path / "plain")
    last = DistilledDataset.load(tmp_path / "averaged" / "last.safetensors")
    assert torch.equal(last.images, plain.images) and not torch.equal(averaged.images, plain.images)
    assert not (tmp_path / "plain" / "last.safetensors").exists()


def test_average_that_hardly_leaves_its_start_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="leaves 97% of the starting point"):
        small(steps=3, ema=0.99).fit(toy_data())


@pytest.mark.parametrize("kind", ["standardised", "pixels"])
def test_whitening_that_the_settings_ask_for_travels_with_the_result(kind: Any) -> None:
    data = toy_data()
    result = small(steps=1, zca=kind).fit(data)
    assert result.preprocessing == Preprocessing.fit(data.images, zca=kind) != data.preprocessing
