"""Networks trained on real data: what they are trained on, how long they live, how a pool takes turns."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ddkit import augment
from ddkit.errors import ConfigError, DivergedError
from ddkit.networks import RealTrainedNetworks, registry
from ddkit.synthesis import Pixels
from ddkit.testing import toy_data
from tests.networks.bench import present, ready, same_after_resuming, walk, weights

SMALL = {"life": 4, "images": 8, "batch_size": 4, "lr": 0.1}


def test_training_ignores_the_synthetic_set() -> None:
    first, pixels = ready(RealTrainedNetworks(**SMALL))
    seen = walk(first, pixels, 6)
    second, pixels = ready(RealTrainedNetworks(**SMALL))
    for expected in seen:
        assert torch.equal(weights(second), expected)
        with torch.no_grad():
            pixels.images.normal_()
        second.after_step(pixels, last=False)


def test_segment_is_an_epoch_of_torch_sgd_on_the_real_images_of_the_signal() -> None:
    source, pixels = ready(RealTrainedNetworks(**SMALL, augmentation="crop"))
    source.current()
    model = source.network.spec.build((1, 8, 8), 3, seed=0)
    model.load_state_dict(source.network.module.state_dict())
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    twin, _ = ready(RealTrainedNetworks(**SMALL))
    generator, crop = twin.streams("real-training"), augment.create("crop")
    for _ in range(2):
        images, labels = twin.setting.signal.labelled(8, "real-training-images")
        for index in torch.randperm(8, generator=generator).split(4):
            batch = crop.train(images[index], generator)
            batch, targets = augment.cutmix(batch, labels[index], 3, 0.5, generator)
            optimiser.zero_grad()
            F.cross_entropy(model(batch), targets).backward()
            optimiser.step()
        source.after_step(pixels, last=False)
        expected = torch.cat([p.detach().flatten() for p in model.parameters()])
        torch.testing.assert_close(weights(source), expected, rtol=1e-4, atol=1e-6)


def test_network_serves_its_life_and_is_trained_between_its_steps_only() -> None:
    source, pixels = ready(RealTrainedNetworks(**SMALL))
    ages, changes = [], []
    for _ in range(8):
        before = weights(source)
        ages.append(source.age())
        source.after_step(pixels, last=False)
        changes.append(not torch.equal(before, present(source)))
    assert ages == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3)]
    assert changes == [True, True, True, False] * 2


def test_network_is_not_trained_after_the_last_step() -> None:
    source, pixels = ready(RealTrainedNetworks(**SMALL))
    before = weights(source)
    source.after_step(pixels, last=True)
    assert torch.equal(before, present(source))


def test_training_lowers_the_loss_on_real_images() -> None:
    options = {**SMALL, "life": 100, "augmentation": "none", "cutmix": 0}
    source, pixels = ready(RealTrainedNetworks(**options))
    images, labels = source.setting.signal.labelled(100, "test")
    before = source.current().loss(images, labels).item()
    walk(source, pixels, 15)
    assert source.current().loss(images, labels).item() < 0.5 * before


@pytest.mark.parametrize(("life", "pool"), [(4, 2), (6, 3), (5, 2), (3, 5)])
def test_members_of_a_pool_take_turns_at_staggered_ages(life: int, pool: int) -> None:
    source, pixels = ready(RealTrainedNetworks(**{**SMALL, "life": life}, pool=pool))
    ages = []
    for _ in range(3 * life * pool):
        source.current()
        ages.append(source.age())
        source.after_step(pixels, last=False)
    assert [age for _, age in ages[:pool]] == [i * life // pool for i in range(pool)]
    for member in range(pool):
        served = [age for _, age in ages[member::pool]]
        assert served == [(member * life // pool + step) % life for step in range(3 * life)]
    lives = [sorted(age for number, age in ages if number == n) for n in range(pool, 2 * pool)]
    assert lives == [list(range(life))] * pool
    one_life_of_all = sorted(age for _, age in ages[: life * pool])
    assert one_life_of_all == sorted(list(range(life)) * pool), "the distribution of ages must be that of one network"


def test_a_step_trains_only_the_member_that_it_used() -> None:
    source, pixels = ready(RealTrainedNetworks(**SMALL, pool=2))
    walk(source, pixels, 2)
    waiting = {name: value.clone() for name, value in source.members[1].weights.items()}
    walk(source, pixels, 1)
    assert all(torch.equal(value, waiting[name]) for name, value in source.members[1].weights.items())
    source.current()
    assert all(torch.equal(v, waiting[name]) for name, v in source.network.module.state_dict().items())


def test_member_with_a_head_start_equals_a_network_that_has_been_trained_that_long() -> None:
    alone, pixels = ready(RealTrainedNetworks(**SMALL))
    walk(alone, pixels, 2)
    pool, _ = ready(RealTrainedNetworks(**SMALL, pool=2))
    pool.drawn = 1  # its first network starts as the second member
    weights(pool)
    assert pool.age() == (1, 2)
    assert torch.equal(present(pool), weights(alone))


def test_pretraining_passes_over_all_real_images_before_the_first_use() -> None:
    plain, _ = ready(RealTrainedNetworks(**SMALL))
    source, _ = ready(RealTrainedNetworks(**SMALL, pretrain_epochs=2))
    counts: list[int] = []
    drawn = source.setting.signal.labelled

    def counted(count: int, stream: str) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = drawn(count, stream)
        counts.append(len(images))
        return images, labels

    source.setting.signal.labelled = counted  # type: ignore[method-assign]
    assert not torch.equal(weights(source), weights(plain))
    assert counts == [len(toy_data())]
    assert source.age() == (0, 0)


def test_augmentation_is_the_own_one_the_runs_or_none() -> None:
    def trained(augmentation: str | None, run: str) -> torch.Tensor:
        source, pixels = ready(RealTrainedNetworks(**SMALL, augmentation=augmentation), strategy=run)
        return walk(source, pixels, 2)[1]

    assert torch.equal(trained("crop", "none"), trained("crop", "scale"))
    assert torch.equal(trained(None, "scale"), trained("scale", "none"))
    assert torch.equal(trained("none", "scale"), trained(None, "none"))
    assert not torch.equal(trained("crop", "none"), trained("none", "none"))


@pytest.mark.parametrize("pool", [1, 3])
@pytest.mark.parametrize("before", [0, 1, 4, 5])
def test_resumed_source_goes_on_with_the_same_networks(pool: int, before: int) -> None:
    same_after_resuming(RealTrainedNetworks, {**SMALL, "pool": pool}, before, 7)


def test_state_is_a_copy() -> None:
    source, pixels = ready(RealTrainedNetworks(**SMALL))
    walk(source, pixels, 1)
    state = source.state_dict()["members"][0]
    kept = [tensor.clone() for tensor in (*state["weights"].values(), *state["velocity"])]
    walk(source, pixels, 1)
    for tensor, expected in zip((*state["weights"].values(), *state["velocity"]), kept, strict=True):
        assert torch.equal(tensor, expected)


def test_weights_that_are_no_longer_finite_stop_the_run() -> None:
    source, pixels = ready(RealTrainedNetworks(**{**SMALL, "lr": 1e30}))
    with pytest.raises(DivergedError, match=r"trained on real images: lower networks\.lr \(now 1e\+30\)"):
        walk(source, pixels, 3)


def test_passes_count_the_real_images_of_all_segments_of_a_life() -> None:
    assert RealTrainedNetworks(life=1).passes_per_step(Pixels(2, 5, (1, 8, 8))) == 0
    assert RealTrainedNetworks().passes_per_step(Pixels(2, 5, (1, 8, 8))) == 2000 * 99 / 100


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("life", 0),
        ("images", 0),
        ("batch_size", 0),
        ("pool", 0),
        ("pretrain_epochs", -1),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("weight_decay", -1.0),
        ("cutmix", 1.5),
        ("cutmix", float("nan")),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"networks.{name}={value}"):
        RealTrainedNetworks(**{name: value})


def test_unknown_augmentation_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="did you mean 'crop'"):
        registry.create("real-trained", {"augmentation": "crp"})
