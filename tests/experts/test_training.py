"""What experts are trained on and what is kept: against torch.optim.SGD and hand-written flat steps in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddkit import augment
from ddkit.base.precision import Precision
from ddkit.base.streams import Streams, derive_seed
from ddkit.data import load_pair
from ddkit.errors import ConfigError, DivergedError
from ddkit.testing import toy_data
from ddkit.training.batches import TrainingSet, training_set
from ddkit.training.experts import ExpertSettings
from ddkit.training.experts.flat import FlatLearner
from ddkit.training.experts.settings import augmentation_constants
from ddkit.training.experts.training import Trajectory, train_experts

MODEL = "convnet:width=4,depth=1"


def toy(dtype: torch.dtype = torch.float64) -> TrainingSet:
    data = toy_data()
    return TrainingSet(data.batch(torch.arange(len(data))).to(dtype), data.labels, data.num_classes)


def settings(**changes: object) -> ExpertSettings:
    return ExpertSettings(**{"model": MODEL, "epochs": 4, "lr": 0.1, "batch_size": 8, **changes})


def by_hand(data: TrainingSet, how: ExpertSettings, expert: int = 0) -> list[Tensor]:
    """Train with plain autograd, one tensor at a time; one augmented batch serves both gradients."""
    seed = how.seed_of(expert)
    module = how.spec.build(data.shape, data.num_classes, derive_seed(seed, "initialisation")).double()
    streams, strategy = Streams(seed), augment.create(how.augmentation)
    assert isinstance(data.images, Tensor)
    weights = list(module.parameters())

    def gradient(images: Tensor, labels: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(F.cross_entropy(module(images), labels), weights))

    kept = [nn.utils.parameters_to_vector(weights).detach().clone()]
    for _ in range(how.epochs):
        order = torch.randperm(len(data), generator=streams("order"))
        for index in order.split(how.batch_size):
            images = strategy.train(data.images[index], streams("augmentation"))
            batch = images, data.targets[index]
            first = gradient(*batch)
            with torch.no_grad():
                scaled = [w.abs() * g if how.adaptive else g for w, g in zip(weights, first, strict=True)]
                norm = sum(s.square().sum() for s in scaled) ** 0.5 + 1e-12
                steps = [
                    how.rho * (w * w if how.adaptive else 1) * g / norm for w, g in zip(weights, first, strict=True)
                ]
                old = [w.clone() for w in weights]
                for w, step in zip(weights, steps, strict=True):
                    w += step
            second = gradient(*batch)
            with torch.no_grad():
                inner = sum((g * p).sum() for g, p in zip(first, second, strict=True))
                square = sum(p.square().sum() for p in second)
                for w, before, g, p in zip(weights, old, first, second, strict=True):
                    w.copy_(before - how.lr * (p - how.alpha * (g - inner / square * p)))
        kept.append(nn.utils.parameters_to_vector(weights).detach().clone())
    return kept


def same(way: Trajectory, expected: list[Tensor], tolerance: float = 1e-12) -> None:
    assert len(way.weights) == len(expected)
    for mine, theirs in zip(way.weights, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=tolerance)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("adaptive", [True, False])
def test_flat_expert_equals_a_hand_written_one(alpha: float, adaptive: bool) -> None:
    how = settings(rho=0.5, alpha=alpha, adaptive=adaptive, augmentation="color_crop")
    (way,) = train_experts(toy(), how, [2])
    same(way, by_hand(toy(), how, expert=2))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_expert_of_radius_zero_is_plain_sgd_to_the_bit(alpha: float) -> None:
    (plain,) = train_experts(toy(), settings(), [0])
    (zero,) = train_experts(toy(), settings(rho=0.0, alpha=alpha), [0])
    assert all(torch.equal(a, b) for a, b in zip(plain.weights, zero.weights, strict=True))
    same(plain, by_hand(toy(), settings(alpha=alpha)))


def test_momentum_and_weight_decay_are_those_of_torch() -> None:
    how, data = settings(momentum=0.9, weight_decay=0.01), toy()
    (way,) = train_experts(data, how, [0])
    seed = how.seed_of(0)
    module = how.spec.build(data.shape, 3, derive_seed(seed, "initialisation")).double()
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    order = Streams(seed)("order")
    assert isinstance(data.images, Tensor)
    for _ in range(how.epochs):
        for index in torch.randperm(len(data), generator=order).split(8):
            optimiser.zero_grad()
            F.cross_entropy(module(data.images[index]), data.targets[index]).backward()
            optimiser.step()
    torch.testing.assert_close(way.weights[-1], nn.utils.parameters_to_vector(module.parameters()).detach())


def test_perturbation_is_undone_before_the_step() -> None:
    class Quadratic:
        def __init__(self) -> None:
            self.parameters = [torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0]])]

        def compute_gradients(self, *batch: Tensor) -> None:
            seen.append([tensor.clone() for tensor in self.parameters])
            for tensor in self.parameters:
                tensor.grad = tensor.clone()

    learner, seen, batch = Quadratic(), [], [torch.zeros(())] * 3
    FlatLearner(learner, 1, rho=0.5, alpha=0.3, adaptive=True).compute_gradients(*batch)  # type: ignore[arg-type]
    assert torch.equal(learner.parameters[0], torch.tensor([[1.0, 2.0]]))
    assert torch.equal(learner.parameters[1], torch.tensor([[3.0]]))
    assert len(seen) == 2 and not torch.equal(seen[0][0], seen[1][0])


def test_kept_weights_are_copies_of_every_epoch_and_start_with_the_initialisation() -> None:
    how = settings()
    (way,) = train_experts(toy(), how, [1])
    assert len(way.weights) == len(way.loss) == len(way.accuracy) == how.epochs + 1
    assert all(not torch.equal(a, b) for i, a in enumerate(way.weights) for b in way.weights[:i])
    module = how.spec.build((1, 8, 8), 3, derive_seed(how.seed_of(1), "initialisation"))
    start = nn.utils.parameters_to_vector(module.parameters()).detach()
    torch.testing.assert_close(way.weights[0].float(), start, rtol=0, atol=0)
    assert way.loss[-1] < way.loss[0]


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_stacked_experts_equal_single_ones(rho: float) -> None:
    how = settings(rho=rho, alpha=0.3, augmentation="crop_scale")
    together = train_experts(toy(), how, [0, 3])
    for way, expert in zip(together, (0, 3), strict=True):
        (alone,) = train_experts(toy(), how, [expert])
        same(way, alone.weights, 1e-10)
        assert way.loss == pytest.approx(alone.loss, abs=1e-9)
        assert way.flatness == pytest.approx(alone.flatness, abs=1e-9)


def test_training_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    train_experts(toy(), settings(augmentation="crop", rho=0.1), [0])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("rho", [0.0, 0.1])
def test_diverged_expert_names_its_learning_rate(rho: float) -> None:
    with pytest.raises(DivergedError, match=r"expert 7 diverged in epoch 1 of 4.*lower lr \(now 1e\+30\)"):
        train_experts(toy(torch.float32), settings(lr=1e30, rho=rho), [7])


def test_radius_makes_experts_flat_on_digits() -> None:
    train, _ = load_pair("digits")
    common = {"model": "convnet:width=32,depth=2", "epochs": 10, "lr": 0.05, "batch_size": 64, "alpha": 0.3}

    def flatness(rho: float, expert: int) -> float:
        how = ExpertSettings(**common, rho=rho)
        data = training_set(train, None, how.recipe(), 10, torch.device("cpu"))
        return train_experts(data, how, [expert])[0].flatness

    plain = [flatness(0.0, expert) for expert in (0, 1)]
    assert all(flatness(0.5, expert) < 0.9 * plain[expert] for expert in (0, 1))
    assert flatness(0.01, 0) == pytest.approx(plain[0], rel=0.03)


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0},
        {"lr": 0.0},
        {"lr": float("inf")},
        {"batch_size": 0},
        {"momentum": 1.0},
        {"weight_decay": -1.0},
        {"rho": -0.1},
        {"alpha": -0.1},
        {"dtype": "bfloat16"},
        {"seed": -1},
        {"epoch": 3},
    ],
)
def test_bad_settings_are_refused_by_name(bad: dict[str, object]) -> None:
    (name,) = bad
    with pytest.raises(ConfigError, match=f"bad settings of experts: {name}="):
        ExpertSettings(**bad)


def test_unknown_architecture_or_augmentation_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="did you mean 'convnet'"):
        ExpertSettings(model="convnt")
    with pytest.raises(ConfigError, match="did you mean 'crop'"):
        ExpertSettings(augmentation="crp")


def test_constants_of_an_augmentation_are_those_it_was_built_with() -> None:
    assert augmentation_constants(augment.create("crop_scale", crop_ratio=0.25)) == {"crop_ratio": 0.25}
    assert augmentation_constants(augment.create("crop+scale")) == {}
    assert augmentation_constants(augment.create("none")) == {}


@pytest.mark.slow
@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_compiled_experts_equal_eager_ones(rho: float) -> None:
    how = settings(rho=rho, alpha=0.3, epochs=2)
    (eager,) = train_experts(toy(torch.float32), how, [0])
    (compiled,) = train_experts(toy(torch.float32), how, [0], precision=Precision(compile=True))
    same(compiled, eager.weights, 1e-4)
