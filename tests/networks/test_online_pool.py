"""A pool trained on the synthetic set: who takes which step when, how long a network lives, what a checkpoint knows."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddkit import augment
from ddkit.base.streams import Streams
from ddkit.errors import ConfigError, DivergedError
from ddkit.models import ModelSpec
from ddkit.networks import Network, OnlinePool, RealSignal, registry
from ddkit.objectives import Context
from ddkit.synthesis import Pixels
from ddkit.testing import toy_data
from tests.networks.bench import ready, same_after_resuming, weights

SMALL: dict[str, Any] = {"size": 3, "max_updates": 6, "lr": 0.01}


def with_model(model: str, options: dict[str, Any] = SMALL, ipc: int = 2, **pixels: Any) -> tuple[OnlinePool, Pixels]:
    """Set a pool up with another model or other labels than the shared bench."""
    data, streams, augmentation = toy_data(), Streams(0), augment.create("none")
    network, source = Network(ModelSpec.parse(model), data.shape, data.num_classes), OnlinePool(**options)
    signal = RealSignal()
    signal.setup(data, streams, augmentation, 4)
    source.setup(Context(data.num_classes, signal, network, augmentation, streams, networks=source))
    synthesizer = Pixels(data.num_classes, ipc, data.shape, **pixels)
    synthesizer.initialise(data, "noise", torch.Generator().manual_seed(0))
    return source, synthesizer


def flat(held: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten().double() for value in held.values()])


def step(source: OnlinePool, pixels: Pixels) -> int:
    """Take an outer step and return which network it used."""
    source.current()
    chosen = source._chosen
    assert chosen is not None
    source.after_step(pixels, last=False)
    return chosen


def test_networks_that_are_not_drawn_stay_the_same_to_the_bit() -> None:
    source, pixels = ready(OnlinePool(**SMALL))
    source.current()
    source._chosen = None
    for _ in range(20):
        before = [flat(held) for held in source.weights]
        chosen = step(source, pixels)
        for position, held in enumerate(source.weights):
            assert torch.equal(flat(held), before[position]) == (position != chosen)


def test_network_i_is_renewed_after_its_counter_has_passed_the_limit(monkeypatch) -> None:
    """T = 100 and N = 10: 101 - 10 i updates of network i, 101 of each that follows it. Training would only be slow."""
    monkeypatch.setattr(OnlinePool, "_train", lambda *args: None)
    source, pixels = ready(OnlinePool(size=10, max_updates=100))
    lives: list[list[int]] = [[] for _ in range(10)]
    updates = [0] * 10
    for _ in range(2600):
        numbers = list(source.numbers)
        chosen = step(source, pixels)
        if numbers and source.numbers[chosen] != numbers[chosen]:
            lives[chosen].append(updates[chosen])
            updates[chosen] = 0
        else:
            updates[chosen] += 1
    assert [life[0] for life in lives] == [101 - 10 * i for i in range(10)]
    later = [count for life in lives for count in life[1:]]
    assert later and set(later) == {101}


def test_renewed_network_is_a_fresh_one_with_an_empty_adam() -> None:
    source, pixels = with_model("convnet:width=4,depth=1,norm=batch", {"size": 1, "max_updates": 1, "lr": 0.01})
    step(source, pixels), step(source, pixels)
    assert source.optimisers[0].state and source.weights[0]["stages.0.1.num_batches_tracked"] == 2
    replay = Streams(0)
    seeds = [replay.integer("networks") for _ in range(2)]
    step(source, pixels)
    fresh = source.network.spec.build((1, 8, 8), 3, seeds[1]).state_dict()
    assert all(torch.equal(source.weights[0][name], value) for name, value in fresh.items())
    assert not source.optimisers[0].state
    assert not source.weights[0]["stages.0.1.running_mean"].any()
    assert bool((source.weights[0]["stages.0.1.running_var"] == 1).all())


def test_first_networks_differ_only_in_their_counters() -> None:
    """Fresh weights all of them; only the counters are spread, by floor(T / N)."""
    source, _ = ready(OnlinePool(size=4, max_updates=10))
    source.current()
    assert source.counters == [0, 2, 4, 6]
    replay = Streams(0)
    for held in source.weights:
        fresh = source.network.spec.build((1, 8, 8), 3, replay.integer("networks")).state_dict()
        assert all(torch.equal(held[name], value) for name, value in fresh.items())


@pytest.mark.parametrize(
    ("labels", "rows"),
    [
        ("hard", lambda targets: F.one_hot(targets, 3) - 1 / 3),
        ("soft", lambda targets: targets - 1 / 3),
        ("centred", lambda targets: targets),
    ],
)
def test_update_is_adam_on_half_the_squared_error_of_the_updated_set(labels: str, rows: Any) -> None:
    source, pixels = with_model("convnet:width=4,depth=1,norm=none", {"size": 1, "lr": 0.02}, labels=labels)
    source.current()
    twin = source.network.spec.build((1, 8, 8), 3, 0)
    twin.load_state_dict(source.weights[0])
    adam = torch.optim.Adam(twin.parameters(), lr=0.02)
    for _ in range(3):
        source.current()
        with torch.no_grad():
            pixels.images.add_(0.1)
        source.after_step(pixels, last=False)
        images, targets = pixels()
        adam.zero_grad()
        (0.5 * (twin(images.detach()) - rows(targets).detach()).square().sum(1).mean()).backward()
        adam.step()
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(source.weights[0][name], value, rtol=1e-5, atol=1e-6)


def test_whole_set_is_used_up_to_the_batch_and_distinct_images_beyond(monkeypatch) -> None:
    seen: list[Tensor] = []
    forward = Pixels.forward
    monkeypatch.setattr(Pixels, "forward", lambda self, index=None: seen.append(index) or forward(self, index))
    for batch, expected in ((6, 6), (100, 6), (4, 4)):
        source, pixels = ready(OnlinePool(size=1, batch=batch))
        seen.clear()
        step(source, pixels), step(source, pixels)
        assert [len(set(index.tolist())) for index in seen] == [expected] * 2
        assert torch.equal(seen[0], seen[1]) == (batch >= 6)


def test_statistics_follow_the_synthetic_data_by_nine_tenths() -> None:
    source, pixels = with_model("convnet:width=4,depth=1,norm=batch", {"size": 1})
    network = source.current()
    convolution = network.module.stages[0][0]
    assert isinstance(convolution, nn.Conv2d)
    maps = convolution(pixels()[0].detach()).detach()
    variance, mean = torch.var_mean(maps, (0, 2, 3))
    source.after_step(pixels, last=False)
    torch.testing.assert_close(source.weights[0]["stages.0.1.running_mean"], 0.9 * mean)
    torch.testing.assert_close(source.weights[0]["stages.0.1.running_var"], 0.1 + 0.9 * variance)


def test_features_are_those_of_evaluation_mode_and_leave_the_statistics() -> None:
    source, pixels = with_model("convnet:width=4,depth=1,norm=batch", {"size": 1})
    step(source, pixels)
    held = flat(source.weights[0])
    network = source.current()
    alone = network.features(pixels()[0][:1].detach())
    torch.testing.assert_close(alone, network.features(pixels()[0].detach())[:1])
    assert not network.module.training
    assert torch.equal(flat(network.module.state_dict()), held)


def test_kernel_is_the_plain_gram_matrix_and_gives_the_weights_no_gradient() -> None:
    source, pixels = ready(OnlinePool(**SMALL))
    kernel = source.kernel()
    support = kernel.represent(pixels()[0])
    gram = kernel.gram(support)
    features = source.current().features(pixels()[0].detach()).double()
    torch.testing.assert_close(gram.detach(), features @ features.T)
    gram.sum().backward()
    assert pixels.images.grad is not None and bool(pixels.images.grad.any())
    assert all(parameter.grad is None for parameter in source.network.module.parameters())
    assert kernel.describe()["model"] == "convnet(depth=1,width=4)"


def test_network_of_a_step_is_the_same_however_often_it_is_asked_for() -> None:
    source, pixels = ready(OnlinePool(**SMALL))
    first = weights(source)
    for _ in range(5):
        assert torch.equal(weights(source), first)
    source.after_step(pixels, last=False)


def test_networks_are_drawn_uniformly_with_repeats() -> None:
    source, pixels = ready(OnlinePool(size=4, max_updates=1000))
    drawn = [step(source, pixels) for _ in range(400)]
    counts = [drawn.count(position) for position in range(4)]
    assert min(counts) > 60 and max(counts) < 145
    assert any(a == b for a, b in itertools.pairwise(drawn))


def test_last_step_trains_nothing() -> None:
    source, pixels = ready(OnlinePool(**SMALL))
    source.current()
    before = [flat(held) for held in source.weights]
    source.after_step(pixels, last=True)
    assert all(torch.equal(flat(held), old) for held, old in zip(source.weights, before, strict=True))


def test_age_counts_the_updates_of_this_very_network() -> None:
    source, pixels = ready(OnlinePool(size=2, max_updates=4))
    seen: dict[int, list[int]] = {}
    for _ in range(40):
        source.current()
        number, served = source.age()
        seen.setdefault(number, []).append(served)
        source.after_step(pixels, last=False)
    assert len(seen) > 4 and sorted(seen) == list(range(len(seen)))
    assert all(served == list(range(len(served))) for served in seen.values())


def test_pool_follows_the_seed() -> None:
    (first, _), (again, _), (other, _) = (ready(OnlinePool(**SMALL), seed) for seed in (0, 0, 1))
    a = weights(first)
    assert torch.equal(a, weights(again)) and not torch.equal(a, weights(other))


@pytest.mark.parametrize("before", [0, 1, 7, 20])
def test_resumed_source_goes_on_with_the_same_networks(before: int) -> None:
    same_after_resuming(OnlinePool, SMALL, before, 12)


@pytest.mark.parametrize("asked", [False, True])
def test_result_in_the_middle_of_a_run_does_not_change_what_follows(asked: bool) -> None:
    """Its card describes the kernel; whether or not the run is resumed from there, the same networks follow."""
    plain, pixels = ready(OnlinePool(**SMALL))
    for _ in range(4):
        step(plain, pixels)
    expected = [step(plain, pixels) for _ in range(8)]
    source, pixels = ready(OnlinePool(**SMALL))
    for _ in range(4):
        step(source, pixels)
    if asked:
        source.kernel().describe()
    other, pixels = ready(OnlinePool(**SMALL))
    other.load_state_dict(source.state_dict())
    other.streams.load_state_dict(source.streams.state_dict())
    assert [step(other, pixels) for _ in range(8)] == expected
    assert [step(source, pixels) for _ in range(8)] == expected
    assert all(torch.equal(flat(a), flat(b)) for a, b in zip(other.weights, plain.weights, strict=True))


def test_saved_state_does_not_change_with_later_steps() -> None:
    source, pixels = ready(OnlinePool(**SMALL))
    for _ in range(4):
        step(source, pixels)
    state = source.state_dict()
    held = [flat(w) for w in state["weights"]]
    moments = [value["exp_avg"].clone() for saved in state["moments"] for value in saved.values()]
    for _ in range(8):
        step(source, pixels)
    assert all(torch.equal(flat(w), old) for w, old in zip(state["weights"], held, strict=True))
    now = [value["exp_avg"] for saved in state["moments"] for value in saved.values()]
    assert all(torch.equal(a, b) for a, b in zip(now, moments, strict=True))


def test_tensors_of_the_module_stay_the_same_objects() -> None:
    """Compiled graphs hold on to them."""
    source, pixels = ready(OnlinePool(size=2, max_updates=1, lr=0.01))
    places = [parameter.data_ptr() for parameter in source.network.module.parameters()]
    for _ in range(10):
        step(source, pixels)
        assert [parameter.data_ptr() for parameter in source.network.module.parameters()] == places
        assert all(parameter.grad is None for parameter in source.network.module.parameters())


def test_card_names_the_model_without_norms_for_the_evaluation() -> None:
    batch, _ = with_model("convnet:width=4,depth=2,growth=2,norm=batch,norm_position=before")
    batch.current()
    expected = "convnet(depth=2,growth=2,norm=none,norm_position=before,width=4)"
    assert batch.metadata() == {"drawn": 3, "evaluation_model": expected}
    plain, _ = with_model("convnet:width=4,norm=none")
    assert plain.metadata() == {"drawn": 0}


def test_weights_that_are_no_longer_finite_stop_the_run() -> None:
    source, pixels = ready(OnlinePool(size=1, lr=1e30))
    with pytest.raises(DivergedError, match=r"lower networks\.lr \(now 1e\+30\)"):
        for _ in range(3):
            step(source, pixels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "networks.size=0"),
        ({"max_updates": -1}, "networks.max_updates=-1"),
        ({"lr": 0.0}, "networks.lr=0.0"),
        ({"batch": 0}, "networks.batch=0"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        registry.create("online-pool", options)
