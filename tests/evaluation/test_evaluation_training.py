"""Is training the same network whichever way it is computed?"""

from __future__ import annotations

import shutil

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddkit.augment import cutmix
from ddkit.base.streams import Streams, derive_seed
from ddkit.data import RealData
from ddkit.data.distilled.label_loss import as_probabilities
from ddkit.errors import ConfigError, DataError, DivergedError
from ddkit.models import ModelSpec, registry
from ddkit.training import TrainingRecipe, train, train_networks
from ddkit.training.learners import weighted_loss

from .conftest import TINY

TWENTY_STEPS = TrainingRecipe(epochs=20, schedule="constant")
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++", "cl"))), reason="torch.compile needs a C++ compiler"
)
DSA = "color_crop_cutout_flip_scale_rotate"
IDC = "color+crop+flip+scale+rotate"


def toy(count: int = 10, classes: int = 3, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 1, 8, 8, generator=generator, dtype=dtype), torch.arange(count) % classes


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_halve_training_takes_the_protocols_steps_and_loses_momentum(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[tuple[int, float, int]] = []
    steps: list[float] = []
    original = train.build_optimiser

    def spy(parameters: list[Tensor], recipe: TrainingRecipe, rate: float) -> torch.optim.SGD:
        optimiser = original(parameters, recipe, rate)
        built.append((len(steps), rate, len(optimiser.state)))
        optimiser.register_step_post_hook(lambda o, *_: steps.append(o.param_groups[0]["lr"]))
        return optimiser

    monkeypatch.setattr(train, "build_optimiser", spy)
    images, labels = toy(6, dtype=torch.float32)
    train_networks(images, labels, TINY, TrainingRecipe(epochs=300, batch_size=4), [1], num_classes=3)
    assert len(steps) == 301 * 2
    assert steps == [0.01] * (152 * 2) + [0.01 * 0.1] * (149 * 2)
    assert built == [(0, 0.01, 0), (152 * 2, 0.01 * 0.1, 0)]


def test_one_plain_run_equals_a_hand_written_loop() -> None:
    images, labels = toy()
    recipe = TrainingRecipe(epochs=4)
    (network,) = train_networks(images, labels, TINY, recipe, [5], num_classes=3)
    model = TINY.build((1, 8, 8), 3, derive_seed(5, "initialisation")).double()
    for epochs, rate in ((4, 0.01), (1, 0.001)):
        optimiser = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
        for _ in range(epochs):
            optimiser.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimiser.step()
    torch.testing.assert_close(weights(network), weights(model), rtol=0, atol=1e-12)


def test_one_run_with_cutmix_equals_a_hand_written_loop_over_both_losses() -> None:
    images, labels = toy()
    recipe = TWENTY_STEPS.replace(epochs=5, batch_size=4, momentum=0, weight_decay=0, cutmix=0.7)
    (network,) = train_networks(images, labels, TINY, recipe, [5], num_classes=3, pad_last=True)
    model, streams = TINY.build((1, 8, 8), 3, derive_seed(5, "initialisation")).double(), Streams(5)
    for _ in range(5):
        for index in torch.randperm(10, generator=streams("order")).split(4):
            number = torch.arange(len(index)).double().view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
            stream = streams("cutmix")
            again = torch.Generator().set_state(stream.get_state())
            mixed, _ = cutmix(images[index], labels[index], 3, 0.7, stream)
            source = cutmix(number, labels[index], 3, 0.7, again)[0].flatten(1).long()
            # Every pixel of a mix weighs in with the loss for the class of the image that it came from.
            logits = model(mixed)
            each = [F.cross_entropy(logits, labels[index[column]], reduction="none") for column in source.t()]
            model.zero_grad()
            torch.stack(each).mean().backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.01 * parameter.grad
    torch.testing.assert_close(weights(network), weights(model), rtol=0, atol=1e-12)


@pytest.mark.parametrize("mix", [0.0, 0.7])
@pytest.mark.parametrize("augmentation", ["none", DSA, IDC])
@pytest.mark.parametrize("soft", [False, True])
def test_stacked_training_equals_serial_training(augmentation: str, soft: bool, mix: float) -> None:
    images, labels = toy()
    target = F.one_hot(labels, 3).double() * 0.7 + 0.1 if soft else labels
    recipe = TWENTY_STEPS.replace(epochs=10, batch_size=6, augmentation=augmentation, cutmix=mix)
    serial, stacked = (
        train_networks(images, target, TINY, recipe, [3, 4, 5], num_classes=3, stacked=how) for how in (False, True)
    )
    for one, other in zip(serial, stacked, strict=True):
        torch.testing.assert_close(weights(one), weights(other), rtol=0, atol=1e-9)
    assert (weights(serial[0]) - weights(serial[1])).abs().max() > 1e-3


def test_stacks_that_do_not_fit_memory_are_split_without_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = toy()
    together = train_networks(images, labels, TINY, TWENTY_STEPS, range(3), num_classes=3, stacked=True)
    monkeypatch.setattr(train, "STACKED_BYTES", {"cpu": 1})
    apart = train_networks(images, labels, TINY, TWENTY_STEPS, range(3), num_classes=3, stacked=True)
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(weights(one), weights(other), rtol=0, atol=1e-9)


def test_same_seed_gives_the_same_bytes_and_global_state_is_untouched() -> None:
    images, labels = toy(dtype=torch.float32)
    recipe = TWENTY_STEPS.replace(augmentation=DSA)
    state = torch.get_rng_state()
    first, second = (
        train_networks(images, labels, TINY, recipe, [9], num_classes=3, stacked=False)[0] for _ in range(2)
    )
    assert torch.equal(weights(first), weights(second))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("augmentation", "mix"), [("none", 0.0), (DSA, 0.0), ("none", 1.0), (IDC, 0.5)])
def test_padding_the_last_batch_is_exact_without_batch_norm(augmentation: str, mix: float) -> None:
    images, labels = toy(10, dtype=torch.float32)
    recipe = TWENTY_STEPS.replace(batch_size=4, augmentation=augmentation, cutmix=mix)
    plain, padded = (
        train_networks(images, labels, TINY, recipe, [2], num_classes=3, pad_last=pad)[0] for pad in (False, True)
    )
    torch.testing.assert_close(weights(plain), weights(padded), rtol=0, atol=1e-6)


def test_batch_norm_refuses_padding_and_stacking() -> None:
    images, labels = toy(10, dtype=torch.float32)
    spec = ModelSpec("convnet", {"depth": 1, "width": 8, "norm": "batch"})
    recipe = TrainingRecipe(epochs=1, batch_size=4)
    with pytest.raises(ConfigError, match="batch statistics"):
        train_networks(images, labels, spec, recipe, [1], num_classes=3, pad_last=True)
    with pytest.raises(ConfigError, match="batch norm"):
        train_networks(images, labels, spec, recipe, [1, 2], num_classes=3, stacked=True)
    assert len(train_networks(images, labels, spec, recipe, [1, 2], num_classes=3)) == 2


@needs_compiler
def test_every_architecture_has_its_own_recompilation_budget() -> None:
    images, labels = toy(4, dtype=torch.float32)
    recipe = TrainingRecipe(epochs=1, schedule="constant")
    torch._dynamo.utils.counters.clear()
    with torch._dynamo.config.patch(recompile_limit=1):
        for width in (3, 5, 7):
            spec = ModelSpec("convnet", {"depth": 1, "width": width})
            train_networks(images, labels, spec, recipe, [1], num_classes=3, compile=True)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 3


@needs_compiler
@pytest.mark.parametrize("mix", [0.0, 0.5])
def test_compiled_training_equals_eager_training_and_is_reused(mix: float) -> None:
    images, labels = toy(10, dtype=torch.float32)
    recipe = TrainingRecipe(epochs=3, batch_size=4, cutmix=mix)
    eager = train_networks(images, labels, TINY, recipe, [1, 2], num_classes=3, stacked=False)
    torch._dynamo.utils.counters.clear()
    compiled = train_networks(images, labels, TINY, recipe, [1, 2], num_classes=3, compile=True)
    again = train_networks(images, labels, TINY, recipe, [2], num_classes=3, compile=True)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    for one, other in zip(eager, compiled, strict=True):
        torch.testing.assert_close(weights(one), weights(other), rtol=0, atol=1e-4)
    assert torch.equal(weights(compiled[1]), weights(again[0]))


def test_bfloat16_keeps_float32_weights_close_to_float32_training() -> None:
    images, labels = toy(10, dtype=torch.float32)
    full, half = (
        train_networks(images, labels, TINY, TWENTY_STEPS, [1], num_classes=3, precision=precision)[0]
        for precision in ("float32", "bfloat16")
    )
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float32}
    difference = (weights(full) - weights(half)).abs().max()
    assert 0 < difference < 0.02


def test_real_data_trains_like_its_preprocessed_tensor(digits: tuple[RealData, RealData]) -> None:
    part = digits[0].subset(torch.arange(0, 300, 3))
    recipe = TWENTY_STEPS.replace(epochs=2, batch_size=32)
    (lazy,) = train_networks(part, None, TINY, recipe, [1], num_classes=10)
    images = part.batch(torch.arange(len(part)))
    (eager,) = train_networks(images, part.labels, TINY, recipe, [1], num_classes=10)
    torch.testing.assert_close(weights(lazy), weights(eager), rtol=0, atol=1e-6)


def test_weighted_losses_are_those_of_the_definitions() -> None:
    logits = torch.tensor([[2.0, -1.0], [0.5, 0.25], [9.0, 9.0]], dtype=torch.float64)
    labels, mask = torch.tensor([0, 1, 1]), torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    rows = F.one_hot(labels, 2).double()
    hard = F.cross_entropy(logits[:2], labels[:2])
    torch.testing.assert_close(weighted_loss(logits, labels, mask, "ce"), hard)
    torch.testing.assert_close(weighted_loss(logits, rows, mask, "ce"), hard)
    torch.testing.assert_close(weighted_loss(logits, rows, mask, "mse"), F.mse_loss(logits[:2], rows[:2]))


def test_hard_labels_under_squared_error_are_centred_one_hot_rows() -> None:
    images, labels = toy()
    rows = F.one_hot(labels, 3).double() - 1 / 3
    recipe = TWENTY_STEPS.replace(loss="mse")
    (hard,) = train_networks(images, labels, TINY, recipe, [1], num_classes=3)
    (dense,) = train_networks(images, rows, TINY, recipe, [1], num_classes=3)
    assert torch.equal(weights(hard), weights(dense))


def test_rate_drops_in_training_with_the_momentum_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[tuple[float, int]] = []
    original = train.build_optimiser

    def spy(parameters: list[Tensor], recipe: TrainingRecipe, rate: float) -> torch.optim.SGD:
        optimiser = original(parameters, recipe, rate)
        optimiser.register_step_pre_hook(lambda o, *_: rates.append((o.param_groups[0]["lr"], len(o.state))))
        return optimiser

    monkeypatch.setattr(train, "build_optimiser", spy)
    images, labels = toy(6, dtype=torch.float32)
    recipe = TrainingRecipe(epochs=4, lr=0.1, schedule="steps", milestones=(0.5,), gamma=0.5)
    train_networks(images, labels, TINY, recipe, [1], num_classes=3, stacked=False)
    assert [rate for rate, _ in rates] == [0.1, 0.1, 0.05, 0.05]
    assert rates[0][1] == 0 and min(state for _, state in rates[1:]) > 0


def test_cutmix_changes_training_and_leaves_order_and_augmentation_alone() -> None:
    images, labels = toy()
    recipe = TWENTY_STEPS.replace(epochs=3, batch_size=4, augmentation=IDC)
    never, rarely = recipe, recipe.replace(cutmix=1e-12)  # draws numbers without ever mixing
    always = recipe.replace(cutmix=1)
    plain, unmixed, mixed = (
        weights(train_networks(images, labels, TINY, how, [1], num_classes=3)[0]) for how in (never, rarely, always)
    )
    torch.testing.assert_close(plain, unmixed, rtol=0, atol=1e-12)
    assert float((plain - mixed).abs().max()) > 1e-4


def test_progress_counts_the_epochs_of_all_networks() -> None:
    images, labels = toy(dtype=torch.float32)
    for stacked, expected in ((False, [1, 2, 3, 4, 5, 6]), (True, [2, 4, 6])):
        seen: list[tuple[int, int]] = []

        def record(done: int, total: int, seen: list[tuple[int, int]] = seen) -> None:
            seen.append((done, total))

        recipe = TrainingRecipe(epochs=2)
        train_networks(images, labels, TINY, recipe, [1, 2], num_classes=3, stacked=stacked, progress=record)
        assert seen == [(done, 6) for done in expected]


def test_diverged_training_is_an_error() -> None:
    images, labels = toy(dtype=torch.float32)
    with pytest.raises(DivergedError, match="learning rate"):
        train_networks(images, labels, TINY, TrainingRecipe(epochs=9, lr=1e30), [1], num_classes=3, stacked=False)


def test_unusable_input_is_refused_before_training() -> None:
    images, labels = toy(dtype=torch.float32)
    recipe = TrainingRecipe(epochs=1)
    with pytest.raises(ConfigError, match="seeds"):
        train_networks(images, labels, TINY, recipe, [], num_classes=3)
    with pytest.raises(ConfigError, match="exclude"):
        train_networks(images, labels, TINY, recipe, [1], num_classes=3, stacked=True, compile=True)
    with pytest.raises(DataError, match="10 training images and 9 labels"):
        train_networks(images, labels[:9], TINY, recipe, [1], num_classes=3)
    with pytest.raises(DataError, match=r"0\.\.1"):
        train_networks(images, labels, TINY, recipe, [1], num_classes=2)
    with pytest.raises(DataError, match="floats"):
        train_networks(images.to(torch.uint8), labels, TINY, recipe, [1], num_classes=3)
    with pytest.raises(DataError, match="without labels"):
        train_networks(images, None, TINY, recipe, [1], num_classes=3)


def test_label_rows_become_probabilities_only_where_they_are_none() -> None:
    rows = torch.tensor([[0.2, 0.3, 0.5], [-1.0, 3.0, 1.0], [-1.0, -2.0, 0.0], [2.0, 2.0, 0.0]])
    expected = torch.tensor([[0.2, 0.3, 0.5], [0.0, 0.75, 0.25], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0.0]])
    torch.testing.assert_close(as_probabilities(rows), expected)
    assert torch.equal(as_probabilities(rows)[0], rows[0])


def test_free_labels_train_to_the_end_of_a_long_schedule() -> None:
    generator = torch.Generator().manual_seed(0)
    images, rows = torch.randn(12, 1, 8, 8, generator=generator), 3 * torch.randn(12, 3, generator=generator)
    spec = ModelSpec.parse("mlp:width=16")
    long = TrainingRecipe(epochs=150, lr=0.1, batch_size=12, loss="ce")
    learned = train_networks(images, rows, spec, long, [1], num_classes=3)[0]
    plain = train_networks(images, as_probabilities(rows), spec, long, [1], num_classes=3)[0]
    for a, b in zip(learned.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)
    steps = TrainingRecipe(schedule="given", rates=(0.1,), loss="ce")
    taken = train_networks(images, rows, spec, steps, [1], num_classes=3)[0]
    other = train_networks(images, as_probabilities(rows), spec, steps, [1], num_classes=3)[0]
    assert any(not torch.equal(a, b) for a, b in zip(taken.parameters(), other.parameters(), strict=True))


class Dropping(nn.Module):
    """Dropout as a layer and as a function."""

    def __init__(self, shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(shape[0] * shape[1] * shape[2], num_classes)

    def features(self, x: Tensor) -> Tensor:
        return F.dropout(self.drop(x.flatten(1)), 0.2, self.training)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


@pytest.mark.parametrize("head", ["linear", "ridge"])
def test_dropout_is_drawn_from_the_networks_seed_alone(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._items, "dropping", Dropping)
    images, labels = toy(dtype=torch.float32)
    recipe = TrainingRecipe(name="short", epochs=5, batch_size=4, head=head)
    spec = ModelSpec("dropping")

    def trained(seeds: list[int]) -> list[Tensor]:
        return [weights(model) for model in train_networks(images, labels, spec, recipe, seeds, num_classes=3)]

    before = torch.default_generator.get_state()
    pair = trained([1, 2])
    assert torch.equal(before, torch.default_generator.get_state())
    torch.manual_seed(123)
    assert torch.equal(trained([2])[0], pair[1])  # neither the process's generator nor the other network matters
    assert not torch.equal(pair[0], pair[1])
    with pytest.raises(ConfigError, match="dropout"):
        train_networks(images, labels, spec, recipe, [1, 2], num_classes=3, stacked=True)
