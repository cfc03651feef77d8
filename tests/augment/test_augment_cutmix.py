"""Does CutMix paste what it says, weigh losses by the area kept, and draw as its paper does?"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ddkit.augment import cutmix
from ddkit.errors import ConfigError, DataError

N, K = 6, 4


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(count: int, height: int = 12, width: int = 10) -> Tensor:
    """Images whose every pixel is the number of the image, so that a mix tells where its pixels came from."""
    return torch.arange(count, dtype=torch.float64).view(-1, 1, 1, 1).repeat(1, 2, height, width)


def partners_and_shares(mixed: Tensor) -> tuple[Tensor, Tensor]:
    """Read off each numbered image whose box it holds (itself for none) and the share of its own pixels."""
    partner, kept = torch.arange(len(mixed)), torch.ones(len(mixed), dtype=torch.float64)
    for number, image in enumerate(mixed):
        foreign = image[image != number]
        if len(foreign):
            partner[number] = int(foreign.unique())  # one value only, else int() fails
            kept[number] = 1 - len(foreign) / image.numel()
    return partner, kept


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_cross_entropy_equals_the_sum_weighted_by_the_area_kept(soft: bool, seed: int) -> None:
    labels = torch.arange(N) % K
    rows = torch.rand(N, K, generator=generator(99), dtype=torch.float64).softmax(1) if soft else F.one_hot(labels, K)
    mixed, targets = cutmix(numbered(N), rows.double() if soft else labels, K, 1.0, generator(seed))
    partner, kept = partners_and_shares(mixed)
    logits = torch.randn(N, K, generator=generator(7), dtype=torch.float64)
    own = F.cross_entropy(logits, rows.double(), reduction="none")
    others = F.cross_entropy(logits, rows.double()[partner], reduction="none")
    # An image that is its own partner shows no box; both of its losses are the same, so its share is irrelevant.
    expected = kept * own + (1 - kept) * others
    assert targets.shape == (N, K) and targets.dtype == torch.float64
    torch.testing.assert_close(F.cross_entropy(logits, targets, reduction="none"), expected, rtol=0, atol=1e-14)


def test_one_box_serves_the_whole_batch_and_partners_are_a_permutation() -> None:
    sizes = []
    for seed in range(20):
        x = numbered(N)
        mixed, _ = cutmix(x, torch.zeros(N, dtype=torch.int64), K, 1.0, generator(seed))
        partner, _ = partners_and_shares(mixed)
        assert partner.sort().values.equal(torch.arange(N))
        pasted = (mixed != x)[partner != torch.arange(N)]
        box = pasted.flatten(0, 1).any(0)
        assert bool((pasted == box).all())
        assert int(box.sum()) == int(box.any(0).sum()) * int(box.any(1).sum())  # a rectangle
        assert torch.equal(x, numbered(N))  # the input is left alone
        sizes.append(int(box.sum()))
    assert len(set(sizes)) > 10


def covered_by_definition(size: int, lambdas: Tensor) -> Tensor:
    """P(pixel is inside the box) along one axis for each lambda: mean over uniform centres (L, size)."""
    half = ((1 - lambdas).sqrt() * size).long() // 2
    distance = torch.arange(size)[:, None] - torch.arange(size)[None]  # pixel minus centre
    inside = (distance >= -half[:, None, None]) & (distance < half[:, None, None])
    return inside.double().mean(2)


def test_pixels_are_replaced_as_often_as_uniform_lambda_and_centre_say() -> None:
    height, width, draws = 12, 9, 4000
    lambdas = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    rows, columns = covered_by_definition(height, lambdas), covered_by_definition(width, lambdas)
    expected = torch.einsum("lh,lw->hw", rows, columns) / len(lambdas)
    x = numbered(2, height, width)
    stream, counts = generator(1), torch.zeros(height, width)
    for _ in range(draws):
        mixed, _ = cutmix(x, torch.tensor([0, 1]), 2, 1.0, stream)
        counts += mixed[0, 0] != 0
    # Half of the permutations of two images are the identity, which shows no box.
    assert float((2 * counts / draws - expected).abs().max()) < 5 * math.sqrt(0.25 * 2 / draws)
    assert float(expected[0, 0]) < float(expected[height // 2, width // 2])


def test_probability_is_that_of_mixing_a_batch() -> None:
    x, labels, stream = numbered(N), torch.arange(N) % K, generator(2)
    mixed = sum(cutmix(x, labels, K, 0.3, stream)[0] is not x for _ in range(2000))
    assert abs(mixed - 600) < 5 * math.sqrt(2000 * 0.3 * 0.7)


def test_unmixed_batch_comes_back_as_it_is_with_one_hot_targets() -> None:
    x, labels = numbered(N), torch.arange(N) % K
    same, targets = cutmix(x, labels, K, 0.0, generator())
    assert same is x and torch.equal(targets, F.one_hot(labels, K).double())
    soft = torch.full((N, K), 0.25, dtype=torch.float64)
    assert cutmix(x, soft, K, 0.0, generator())[1] is soft


def test_same_number_of_random_numbers_is_drawn_whether_or_not_the_batch_is_mixed() -> None:
    states = []
    for probability in (0.0, 0.5, 1.0):
        stream = generator(3)
        cutmix(numbered(N), torch.zeros(N, dtype=torch.int64), K, probability, stream)
        states.append(stream.get_state())
    assert torch.equal(states[0], states[1]) and torch.equal(states[1], states[2])


def test_global_random_state_is_untouched_and_seeds_repeat() -> None:
    before = torch.get_rng_state()
    x, labels = torch.randn(N, 3, 8, 8, generator=generator()), torch.arange(N) % K
    first, second = (cutmix(x, labels, K, 1.0, generator(5)) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert first[1].dtype == torch.float32
    assert torch.equal(before, torch.get_rng_state())


def test_gradients_reach_both_images_of_a_mix() -> None:
    x = numbered(N).requires_grad_()
    mixed, _ = cutmix(x, torch.zeros(N, dtype=torch.int64), K, 1.0, generator(0))
    mixed.sum().backward()
    # Every output pixel is one input pixel: a pixel is used by its own image or, inside the box, by one other.
    assert x.grad is not None and torch.equal(x.grad, torch.ones_like(x))


def test_unusable_input_is_refused() -> None:
    x, labels = numbered(N), torch.arange(N) % K
    for probability in (-0.1, 1.5, float("nan")):
        with pytest.raises(ConfigError, match=r"cutmix\.probability=.* must lie in \[0, 1\]"):
            cutmix(x, labels, K, probability, generator())
    with pytest.raises(DataError, match="floating"):
        cutmix(x.to(torch.uint8), labels, K, 1.0, generator())
    with pytest.raises(DataError, match="targets of shape"):
        cutmix(x, labels[:-1], K, 1.0, generator())
    with pytest.raises(DataError, match="targets of shape"):
        cutmix(x, torch.zeros(N, K + 1), K, 1.0, generator())
    with pytest.raises(DataError, match="int64"):
        cutmix(x, labels.int(), K, 1.0, generator())
    with pytest.raises(DataError, match=r"0\.\.2"):
        cutmix(x, labels, 3, 1.0, generator())
