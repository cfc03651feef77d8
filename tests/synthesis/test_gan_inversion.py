"""Inversion of real images against closed forms, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ddkit.errors import DivergedError
from ddkit.synthesis.gan import inversion, invert
from ddkit.synthesis.gan.inversion import train_features
from ddkit.testing import toy_data

CODE, SHAPE = 3, (1, 4, 4)


def problem(count: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return a linear generator (16, 3), targets, starting codes and labels."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(16, CODE, dtype=torch.float64, generator=generator)
    images = torch.randn(count, *SHAPE, dtype=torch.float64, generator=generator)
    codes = torch.randn(count, CODE, dtype=torch.float64, generator=generator)
    return matrix, images, codes, torch.arange(count) % 2


def solve(features: Any, steps: int, lr: float = 0.05) -> tuple[Tensor, Tensor]:
    matrix, images, codes, labels = problem()
    return invert(
        lambda z, y: (z @ matrix.T).view(-1, *SHAPE),
        features,
        codes,
        labels,
        lambda position: images[position],
        steps=steps,
        lr=lr,
    )


def blind(images: Tensor) -> Tensor:
    """Features in which all images are the same."""
    return images.flatten(1)[:, :1] * 0


def test_pixel_loss_alone_converges_to_the_least_squares_codes() -> None:
    matrix, images, _, _ = problem()
    codes, losses = solve(blind, steps=1500)
    best = torch.linalg.lstsq(matrix, images.flatten(1).T).solution.T
    torch.testing.assert_close(codes, best, rtol=0, atol=1e-6)
    residual = (best @ matrix.T - images.flatten(1)).square().mean()
    assert float(losses[1, 1]) == pytest.approx(float(residual), rel=1e-6)
    assert losses[:, 0].tolist() == [0, 0]


def test_losses_are_means_over_features_and_pixels_before_and_after() -> None:
    matrix, images, codes, _ = problem()
    found, losses = solve(lambda x: 2 * x.flatten(1), steps=3)
    for row, z in enumerate((codes, found)):
        pixel = float((z @ matrix.T - images.flatten(1)).square().mean())
        assert losses[row].tolist() == pytest.approx([4 * pixel, pixel])


def test_both_terms_have_the_same_weight() -> None:
    _, images, codes, _ = problem()
    matrix = problem()[0]
    lr = 1e-3
    found, _ = solve(lambda x: x.flatten(1)[:, :4], steps=1, lr=lr)
    start = codes.clone().requires_grad_()
    error = start @ matrix.T - images.flatten(1)
    (gradient,) = torch.autograd.grad((error.square().mean(1) + error[:, :4].square().mean(1)).sum(), start)
    expected = codes - lr * gradient / (gradient.abs() + 1e-8)  # the first step of Adam
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_codes_are_independent_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = solve(lambda x: x.flatten(1).tanh(), steps=20)
    monkeypatch.setattr(inversion, "BLOCK", 2)
    blocks = solve(lambda x: x.flatten(1).tanh(), steps=20)
    for a, b in zip(whole, blocks, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_codes_that_diverge_are_an_error() -> None:
    with pytest.raises(DivergedError, match="use init=prior"):
        solve(blind, steps=2, lr=float("inf"))


def test_feature_network_is_frozen_repeatable_and_knows_the_classes() -> None:
    real = toy_data(counts=(20, 30, 25))
    before = torch.get_rng_state()
    network = train_features(real, 20, torch.Generator().manual_seed(1), torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)
    again = train_features(real, 20, torch.Generator().manual_seed(1), torch.device("cpu"))
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    images = real.batch(torch.arange(len(real)))
    assert float((network(images).argmax(1) == real.labels).float().mean()) > 0.9
