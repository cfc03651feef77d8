"""Training of a generator: repeatable, away from global random state, towards the images of each class."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ddkit.data import RealData
from ddkit.errors import ConfigError, DivergedError
from ddkit.synthesis.gan import Generator, train_generator, training
from ddkit.synthesis.gan.training import pixels_at, recalibrate
from ddkit.testing import toy_data


def trained(seed: int = 0, real: RealData | None = None, **options: Any) -> Generator:
    settings = {"code_size": 4, "width": 4, "steps": 2, "batch": 4, **options}
    return train_generator(real or toy_data(), torch.Generator().manual_seed(seed), **settings)


def test_training_follows_its_stream_and_leaves_the_global_one_alone() -> None:
    before = torch.get_rng_state()
    first = trained(0)
    torch.rand(3)
    again, other = trained(0), trained(1)
    torch.set_rng_state(before)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    assert not torch.equal(first.linear.weight, other.linear.weight)
    trained(2)
    assert torch.equal(torch.get_rng_state(), before)


def test_trained_generator_is_frozen() -> None:
    generator = trained()
    assert not generator.training and not any(p.requires_grad for p in generator.parameters())


def test_generated_images_approach_the_real_ones() -> None:
    real = toy_data(counts=(20, 30))
    mean = pixels_at(real, torch.arange(50), torch.device("cpu")).mean(0)

    def distance(steps: int) -> float:
        codes = torch.randn(200, 4, generator=torch.Generator().manual_seed(5))
        images = trained(steps=steps, real=real, width=16, batch=16)(codes, torch.arange(200) % 2)
        return float((images.mean(0) - mean).square().mean())

    assert distance(200) < 0.6 * distance(1)


def test_pixels_reach_the_generators_range_without_preprocessing() -> None:
    images = torch.tensor([0, 255, 51], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 1, 4, 4)
    real = RealData.from_tensors(images, [0, 1, 1])
    found = pixels_at(real, torch.tensor([2, 0, 1]), torch.device("cpu"))[:, 0, 0, 0]
    torch.testing.assert_close(found, torch.tensor([-0.6, -1.0, 1.0]))


def test_recalibration_gives_the_mean_statistics_of_fresh_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CALIBRATION", (3, 50))
    generator, real = trained(), toy_data()
    generator.norms[0].running_mean.fill_(7.0)
    recalibrate(generator, real, torch.Generator().manual_seed(3))
    stream, means, variances = torch.Generator().manual_seed(3), [], []
    for _ in range(3):
        torch.randint(len(real), (50,), generator=stream)
        maps = generator.linear(torch.randn(50, 4, generator=stream)).view(50, 4, -1)
        means.append(maps.mean((0, 2))), variances.append(maps.transpose(0, 1).flatten(1).var(1))
    torch.testing.assert_close(generator.norms[0].running_mean, torch.stack(means).mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(generator.norms[0].running_var, torch.stack(variances).mean(0), rtol=1e-4, atol=1e-5)
    assert not generator.training


def test_sizes_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"generator\.steps=0"):
        trained(steps=0)
    with pytest.raises(ConfigError, match=r"generator\.batch=1"):
        trained(batch=1)


def test_weights_that_are_not_finite_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "GENERATOR_RATE", float("inf"))
    with pytest.raises(DivergedError, match="diverged"):
        trained()
