"""Are networks trained as methods with steps, optimisers or targets of their own define it?"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddkit.base.streams import derive_seed
from ddkit.errors import ConfigError, DataError
from ddkit.training import TrainingRecipe, recipe, train_networks

from .conftest import TINY


def toy(per_class: int, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(classes).repeat_interleave(per_class)
    return torch.randn(len(labels), 1, 8, 8, generator=generator, dtype=torch.float64), labels


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters() if parameter.requires_grad])


def given(rates: tuple[float, ...], **fields: Any) -> TrainingRecipe:
    return TrainingRecipe(name="steps", schedule="given", rates=rates, loss="ce", **fields)


@pytest.mark.parametrize("stacked", [False, True])
def test_given_steps_equal_a_hand_written_loop(stacked: bool) -> None:
    images, labels = toy(4)
    rates, momenta = (0.3, 0.1, 0.2), (0.9, 0.5, 0.7)
    plan = given(rates, momenta=momenta, runs=2)
    trained = train_networks(images, labels, TINY, plan, [5, 6], num_classes=3, stacked=stacked)
    batches = [torch.tensor([0, 1, 4, 5, 8, 9]), torch.tensor([2, 3, 6, 7, 10, 11])]
    for seed, model in zip((5, 6), trained, strict=True):
        mine = TINY.build((1, 8, 8), 3, derive_seed(seed, "initialisation")).double().train()
        velocity = [torch.zeros_like(p) for p in mine.parameters()]
        for t in range(3):
            index = batches[t % 2]
            loss = F.cross_entropy(mine(images[index]), labels[index])
            gradients = torch.autograd.grad(loss, list(mine.parameters()))
            velocity = [momenta[t] * v + g for v, g in zip(velocity, gradients, strict=True)]
            with torch.no_grad():
                for p, v in zip(mine.parameters(), velocity, strict=True):
                    p -= rates[t] * v
        assert torch.allclose(weights(model), weights(mine), rtol=1e-10, atol=1e-12)


def test_soft_rows_of_fewer_classes_are_cut_into_runs_of_the_classes_that_have_images() -> None:
    images, _ = toy(4, classes=2)
    rows = torch.rand(8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    plan = given((0.3, 0.1), runs=4, classes=2)
    (model,) = train_networks(images, rows, TINY, plan, [5], num_classes=3)
    mine = TINY.build((1, 8, 8), 3, derive_seed(5, "initialisation")).double().train()
    for rate, index in zip((0.3, 0.1), (torch.tensor([0, 4]), torch.tensor([1, 5])), strict=True):
        loss = F.cross_entropy(mine(images[index]), rows[index])
        gradients = torch.autograd.grad(loss, list(mine.parameters()))
        with torch.no_grad():
            for p, g in zip(mine.parameters(), gradients, strict=True):
                p -= rate * g
    assert torch.allclose(weights(model), weights(mine), rtol=1e-10, atol=1e-12)


def test_a_fixed_start_makes_all_networks_the_same() -> None:
    images, labels = toy(2)
    one, other = train_networks(images, labels, TINY, given((0.1,), start=7), [1, 2], num_classes=3)
    assert torch.equal(weights(one), weights(other))
    fresh, _ = train_networks(images, labels, TINY, given((0.1,)), [1, 2], num_classes=3)
    assert not torch.equal(weights(one), weights(fresh))


def test_a_set_that_the_runs_do_not_divide_is_refused() -> None:
    images, labels = toy(3)
    with pytest.raises(DataError, match="2 batches"):
        train_networks(images, labels, TINY, given((0.1,), runs=2), [1], num_classes=3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"schedule": "given"}, "rates"),
        ({"rates": (0.1,)}, "rates"),
        ({"schedule": "given", "rates": (0.1, -1.0)}, "positive"),
        ({"schedule": "given", "rates": (0.1, 0.2), "momenta": (0.5,)}, "momenta"),
        ({"schedule": "given", "rates": (0.1,), "momenta": (-0.5,)}, "momenta"),
    ],
)
def test_steps_that_make_no_sense_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingRecipe(**wrong)


def test_adam_equals_torchs_own() -> None:
    images, labels = toy(2)
    plan = TrainingRecipe(epochs=3, optimiser="adam", lr=0.01, weight_decay=0, schedule="constant")
    (model,) = train_networks(images, labels, TINY, plan, [3], num_classes=3)
    mine = TINY.build((1, 8, 8), 3, derive_seed(3, "initialisation")).double().train()
    optimiser = torch.optim.Adam(mine.parameters(), lr=0.01)
    for _ in range(3):
        optimiser.zero_grad()
        F.cross_entropy(mine(images), labels).backward()
        optimiser.step()
    assert torch.allclose(weights(model), weights(mine), rtol=1e-8, atol=1e-10)


def test_warm_up_rises_linearly_then_falls_to_the_floor() -> None:
    plan = TrainingRecipe(schedule="warmup", warmup=0.5, floor=0.01, lr=1.0, epochs=100)
    rates = [plan.rate_at(step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(1 / 51) and rates[24] == pytest.approx(25 / 51)
    assert rates[50] == pytest.approx(1) and rates[75] == pytest.approx(0.505) and rates[100] == pytest.approx(0.01)


def test_warm_up_reaches_the_optimiser_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from ddkit.training import train

    seen: list[float] = []
    original = train.build_optimiser

    def spy(parameters: list[Tensor], plan: TrainingRecipe, rate: float) -> torch.optim.Optimizer:
        optimiser = original(parameters, plan, rate)
        optimiser.register_step_post_hook(lambda o, *_: seen.append(o.param_groups[0]["lr"]))
        return optimiser

    monkeypatch.setattr(train, "build_optimiser", spy)
    images, labels = toy(2)
    plan = TrainingRecipe(schedule="warmup", warmup=0.5, epochs=4, batch_size=4, optimiser="adam")
    train_networks(images, labels, TINY, plan, [1], num_classes=3)
    assert seen == [plan.rate_at(step, 8) for step in range(8)]


@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_centred_training_moves_the_difference_to_the_start_towards_the_scaled_targets(scale: float) -> None:
    images, labels = toy(2)
    plan = TrainingRecipe(
        epochs=2, lr=0.1, momentum=0, weight_decay=0, schedule="constant", loss="mse", centred=True, label_scale=scale
    )
    (model,) = train_networks(images, labels, TINY, plan, [3], num_classes=3)
    start = TINY.build((1, 8, 8), 3, derive_seed(3, "initialisation")).double().train()
    mine = TINY.build((1, 8, 8), 3, derive_seed(3, "initialisation")).double().train()
    targets = F.one_hot(labels, 3).double() - 1 / 3
    for _ in range(2):
        difference = mine(images) - start(images).detach()
        loss = (difference - scale * targets).square().mean() / scale**2
        gradients = torch.autograd.grad(loss, list(mine.parameters()))
        with torch.no_grad():
            for p, g in zip(mine.parameters(), gradients, strict=True):
                p -= 0.1 * g
    assert torch.allclose(weights(model), weights(mine), rtol=1e-9, atol=1e-11)
    assert torch.allclose(model(images), mine(images) - start(images))


def test_a_centred_recipe_refuses_stacked_training() -> None:
    images, labels = toy(2)
    with pytest.raises(ConfigError, match="centred"):
        train_networks(images, labels, TINY, recipe("centred", "x"), [1], num_classes=3, stacked=True)


def test_recipes_of_single_methods_survive_their_dictionaries() -> None:
    for name in ("steps", "adam", "frepo", "centred", "ncfm"):
        own = recipe(name, "cifar10")
        assert own.name == name and TrainingRecipe(**own.model_dump(mode="json")) == own


def test_given_steps_are_counted() -> None:
    assert given((0.1,) * 7, runs=2).steps(1000) == 7


def test_a_fixed_start_uses_the_weights_of_its_seed() -> None:
    images, labels = toy(2)
    plan = given((1e-30,), start=11)
    (model,) = train_networks(images, labels, TINY, plan, [1], num_classes=3)
    assert torch.allclose(weights(model), weights(TINY.build((1, 8, 8), 3, 11).double()))


def test_a_ridge_head_equals_the_procedure_written_out() -> None:
    images, labels = toy(2)
    rows = F.one_hot(labels, 3).double()
    plan = TrainingRecipe(epochs=3, optimiser="adam", lr=0.01, weight_decay=0, schedule="constant", head="ridge")
    (model,) = train_networks(images, labels, TINY, plan, [3], num_classes=3)
    mine = TINY.build((1, 8, 8), 3, derive_seed(3, "initialisation")).double().train()
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    groups = [{"params": list(mine.parameters())}, {"params": [scale], "lr": 0.01}]
    adam = torch.optim.Adam(groups, lr=0.01)
    w: Tensor | float = 0.0
    for _ in range(3):
        phi = torch.cat([mine.features(images), images.new_ones(6, 1)], 1)  # type: ignore[operator]
        solved = phi.T @ torch.linalg.inv(phi @ phi.T + torch.eye(6)) @ rows
        mixed = 0.99 * w + 0.01 * solved
        adam.zero_grad()
        F.cross_entropy(scale * phi @ mixed, rows).backward()
        adam.step()
        w = mixed.detach()
    with torch.no_grad():
        phi = torch.cat([mine.features(images), images.new_ones(6, 1)], 1)  # type: ignore[operator]
        assert torch.allclose(model(images), phi @ w, rtol=1e-8, atol=1e-10)
