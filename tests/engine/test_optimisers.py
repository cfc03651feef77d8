"""Do LAMB, AdaBelief and clipping follow their equations, and does a resumed optimiser go on as if nothing happened?"""

from __future__ import annotations

import copy
import math
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ddkit.base.config import OptimiserConfig
from ddkit.engine.optimisers import AdaBelief, Lamb, build_optimisers, clip_gradients
from ddkit.errors import ConfigError, UnknownNameError
from ddkit.testing.small import artifact_bytes, fit_small
from ddkit.testing.watch import Kill

SHAPE = (4, 3)


def start(seed: int = 0) -> nn.Parameter:
    return nn.Parameter(torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def gradients(count: int, seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(count)]


def walk(optimiser: torch.optim.Optimizer, parameter: nn.Parameter, steps: list[torch.Tensor]) -> torch.Tensor:
    for gradient in steps:
        parameter.grad = gradient.clone()
        optimiser.step()
    return parameter.detach().clone()


def lamb_by_hand(p: np.ndarray, steps: list[np.ndarray], lr: float, betas: tuple[float, float], decay: float) -> Any:
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(steps, 1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        u = (m / (1 - betas[0] ** t)) / (np.sqrt(v / (1 - betas[1] ** t)) + 1e-6) + decay * p
        p = p - lr * np.linalg.norm(p) / np.linalg.norm(u) * u
    return p


def adabelief_by_hand(p: np.ndarray, steps: list[np.ndarray], lr: float, betas: tuple[float, float]) -> Any:
    m, s = np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(steps, 1):
        m = betas[0] * m + (1 - betas[0]) * g
        s = betas[1] * s + (1 - betas[1]) * (g - m) ** 2 + 1e-16
        p = p - lr * (m / (1 - betas[0] ** t)) / (np.sqrt(s / (1 - betas[1] ** t)) + 1e-16)
    return p


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9)])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_lamb_follows_its_equations(betas: tuple[float, float], decay: float) -> None:
    parameter, steps = start(), gradients(5)
    expected = lamb_by_hand(parameter.detach().numpy(), [g.numpy() for g in steps], 0.02, betas, decay)
    found = walk(Lamb([parameter], lr=0.02, betas=betas, weight_decay=decay), parameter, steps)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9)])
def test_adabelief_follows_its_equations(betas: tuple[float, float]) -> None:
    parameter, steps = start(), gradients(5)
    expected = adabelief_by_hand(parameter.detach().numpy(), [g.numpy() for g in steps], 0.02, betas)
    found = walk(AdaBelief([parameter], lr=0.02, betas=betas), parameter, steps)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-14)


def test_every_lamb_step_moves_a_tensor_by_the_rate_times_its_norm() -> None:
    parameter = start()
    optimiser = Lamb([parameter], lr=3e-4)
    for gradient in gradients(4):
        before = parameter.detach().clone()
        walk(optimiser, parameter, [gradient])
        assert ((parameter.detach() - before).norm() / before.norm()).item() == pytest.approx(3e-4, rel=1e-6)


def test_first_lamb_step_goes_along_the_signs_of_the_gradient() -> None:
    parameter, gradient = start(), 1e3 * gradients(1)[0]
    before = parameter.detach().clone()
    expected = before - 0.01 * before.norm() * gradient.sign() / math.sqrt(before.numel())
    torch.testing.assert_close(walk(Lamb([parameter], lr=0.01), parameter, [gradient]), expected, rtol=1e-6, atol=0)


def test_norms_of_lamb_are_those_of_one_tensor() -> None:
    large, small = start(0), start(1)
    with torch.no_grad():
        large.mul_(1000)
    alone = walk(Lamb([small], lr=0.01), small, gradients(3))
    again = start(1)
    optimiser = Lamb([large, again], lr=0.01)
    for gradient in gradients(3):
        large.grad, again.grad = gradient.clone(), gradient.clone()
        optimiser.step()
    assert torch.equal(again, alone)


def test_lamb_step_from_zero_has_the_length_of_adams() -> None:
    parameter, gradient = nn.Parameter(torch.zeros(SHAPE, dtype=torch.float64)), gradients(1)[0]
    found = walk(Lamb([parameter], lr=0.01), parameter, [gradient])
    torch.testing.assert_close(found, -0.01 * gradient / (gradient.abs() + 1e-6), rtol=1e-12, atol=0)
    still = start()
    assert torch.equal(walk(Lamb([still], lr=0.01), still, [torch.zeros(SHAPE, dtype=torch.float64)]), start())


def test_first_adabelief_step_is_the_rate_over_the_first_decay() -> None:
    """m = 0.1 g and s = 0.001 (0.9 g)^2, so the corrected step is sign(g) / 0.9."""
    parameter, gradient = start(), gradients(1)[0]
    before = parameter.detach().clone()
    found = walk(AdaBelief([parameter], lr=0.01), parameter, [gradient])
    torch.testing.assert_close(found, before - 0.01 / 0.9 * gradient.sign(), rtol=1e-9, atol=0)


def test_adabelief_decays_weights_through_the_gradient() -> None:
    decayed, plain = start(), start()
    walk(AdaBelief([decayed], lr=0.01, weight_decay=0.1), decayed, gradients(1))
    walk(AdaBelief([plain], lr=0.01), plain, [gradients(1)[0] + 0.1 * start().detach()])
    torch.testing.assert_close(decayed, plain)


@pytest.mark.parametrize("kind", [Lamb, AdaBelief])
def test_parameter_without_a_gradient_stays(kind: type[torch.optim.Optimizer]) -> None:
    first, second = start(0), start(1)
    optimiser = kind([first, second], lr=0.1)
    first.grad = torch.ones_like(first)
    optimiser.step()
    assert torch.equal(second, start(1)) and not torch.equal(first, start(0))
    assert second not in optimiser.state


@pytest.mark.parametrize("kind", [Lamb, AdaBelief])
def test_closure_is_evaluated_with_gradients(kind: type[torch.optim.Optimizer]) -> None:
    parameter = start()
    optimiser = kind([parameter], lr=0.1)

    def closure() -> float:
        loss = parameter.square().sum()
        loss.backward()
        return float(loss.detach())

    assert optimiser.step(closure) == pytest.approx(start().square().sum().item())
    assert not torch.equal(parameter, start())


@pytest.mark.parametrize("kind", [Lamb, AdaBelief])
def test_optimiser_goes_on_from_its_state(kind: type[torch.optim.Optimizer]) -> None:
    parameter, steps = start(), gradients(6)
    optimiser = kind([parameter], lr=0.02)
    walk(optimiser, parameter, steps[:3])
    other = nn.Parameter(parameter.detach().clone())
    resumed = kind([other], lr=1.0)
    resumed.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    assert torch.equal(walk(resumed, other, steps[3:]), walk(optimiser, parameter, steps[3:]))


@pytest.mark.parametrize("kind", [Lamb, AdaBelief])
@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"betas": (1.0, 0.9)}, {"eps": -1.0}, {"weight_decay": -1.0}])
def test_numbers_out_of_range_are_refused(kind: type[torch.optim.Optimizer], wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        kind([start()], **wrong)


@pytest.mark.parametrize("limit", [0.5, 2.0])
def test_clipped_gradients_have_the_joint_norm_of_the_limit(limit: float) -> None:
    first, second, none = start(0), nn.Parameter(torch.zeros(5)), start(2)
    first.grad, second.grad = gradients(1)[0], torch.arange(5.0)
    before = [first.grad.clone(), second.grad.clone()]
    clip_gradients([first, second, none], limit)
    joint = math.sqrt(float(first.grad.square().sum()) + float(second.grad.square().sum()))
    assert joint == pytest.approx(limit, rel=1e-6)
    factor = limit / math.sqrt(sum(float(g.square().sum()) for g in before))
    torch.testing.assert_close(first.grad, factor * before[0])
    assert none.grad is None


def test_short_gradients_are_not_clipped_and_nothing_is_no_trouble() -> None:
    parameter, zero = start(), start()
    parameter.grad, zero.grad = gradients(1)[0], torch.zeros(SHAPE, dtype=torch.float64)
    clip_gradients([parameter], 1e6)
    assert torch.equal(parameter.grad, gradients(1)[0])
    clip_gradients([zero], 1.0)
    assert not zero.grad.any()
    clip_gradients([start()], 1.0)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("lamb", Lamb), ("adabelief", AdaBelief)],
)
def test_names_of_the_configuration_build_their_optimisers(name: str, kind: type[torch.optim.Optimizer]) -> None:
    config = OptimiserConfig(name=name, lr=0.1, betas=(0.5, 0.9), weight_decay=0.25, momentum=0.75)
    optimiser = build_optimisers({"images": [start()]}, config)["images"]
    settings = optimiser.param_groups[0]
    assert type(optimiser) is kind and (settings["lr"], settings["weight_decay"]) == (0.1, 0.25)
    assert settings["momentum"] == 0.75 if name == "sgd" else tuple(settings["betas"]) == (0.5, 0.9)


def test_settings_of_a_group_that_does_not_exist_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'images'"):
        build_optimisers({"images": [start()]}, OptimiserConfig(groups={"image": {"lr": 0.1}}))


@pytest.mark.parametrize("name", ["lamb", "adabelief"])
def test_killed_run_with_the_optimiser_goes_on_to_the_same_bytes(name: str, tmp_path: Any) -> None:
    overrides = {"optimiser": {"name": name, "lr": 0.01, "schedule": "cosine", "floor": 0.1, "clip": 0.5}}
    whole = artifact_bytes(fit_small("dm", overrides))
    with suppress(KeyboardInterrupt):
        fit_small("dm", overrides, out=tmp_path / "run", callbacks=[Kill(3)], checkpoint_every=1)
    resumed = fit_small("dm", overrides, out=tmp_path / "run", resume=True, checkpoint_every=1)
    assert artifact_bytes(resumed) == whole


def test_run_applies_the_limit_to_the_gradients_of_all_groups() -> None:
    """Plain SGD with rate 1 moves everything together by the limit where gradients are longer, and by them if not."""

    def moved(clip: float | None, steps: int = 1) -> torch.Tensor:
        optimiser = {"name": "sgd", "lr": 1.0, "momentum": 0.0, "clip": clip}
        options = {"steps": steps, "optimiser": optimiser, "init": "noise", "synthesis": {"name": "pixels"}}
        return fit_small("dm", options).images

    origin = moved(None, steps=0)
    free, clipped, loose = moved(None) - origin, moved(1e-2) - origin, moved(1e6) - origin
    assert free.norm() > 1e-2
    assert clipped.norm().item() == pytest.approx(1e-2, rel=1e-3)
    torch.testing.assert_close(clipped, free * (1e-2 / free.norm()), rtol=0.05, atol=1e-6)
    assert torch.equal(loose, free)
