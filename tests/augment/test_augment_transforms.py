"""Do the pixel transforms do what their formulas say, on cases worked out by hand?"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ddkit.augment import transforms


def blocks(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def one(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


def test_crop_of_four_by_four_hand_case() -> None:
    x = torch.arange(16.0).view(1, 1, 1, 4, 4)
    out = transforms.crop(x, torch.tensor([[1, -1]]))[0, 0, 0]
    assert out.tolist() == [[0, 4, 5, 6], [0, 8, 9, 10], [0, 12, 13, 14], [0, 0, 0, 0]]


@pytest.mark.parametrize("height,width", [(8, 8), (28, 28), (13, 40), (224, 200)])
def test_crop_copies_pixels_exactly(height: int, width: int) -> None:
    x = blocks(81, 1, 2, height, width)
    shifts = torch.cartesian_prod(torch.arange(-4, 5), torch.arange(-4, 5))
    padded = torch.nn.functional.pad(x, (4, 4, 4, 4))
    expected = torch.stack(
        [
            p[..., 4 + i : 4 + i + height, 4 + j : 4 + j + width]
            for p, (i, j) in zip(padded, shifts.tolist(), strict=True)
        ]
    )
    assert torch.equal(transforms.crop(x, shifts), expected)


def test_cutout_is_clipped_to_the_image() -> None:
    # Centres 0, 16 and 32 of a hole 16 wide on 32 pixels.
    start = torch.tensor([[-8, -8], [8, 8], [24, 24]])
    kept = transforms.cutout(torch.ones(3, 1, 1, 32, 32), start, (16, 16)).view(3, 32, 32)
    expected = torch.ones(3, 32, 32)
    expected[0, :8, :8] = expected[1, 8:24, 8:24] = expected[2, 24:, 24:] = 0
    assert torch.equal(kept, expected)


def test_cutout_rows_and_columns_are_not_swapped() -> None:
    kept = transforms.cutout(torch.ones(1, 1, 1, 10, 20), torch.tensor([[1, 5]]), (2, 3))[0, 0, 0]
    assert (kept == 0).nonzero().tolist() == [[i, j] for i in (1, 2) for j in (5, 6, 7)]


def test_scale_one_and_rotation_zero_are_the_identity() -> None:
    x = blocks(2, 3, 3, 32, 32)
    for matrix in (
        transforms.scale_matrix(torch.ones(2, 2)),
        transforms.rotation_matrix(torch.zeros(2), 32, 32),
    ):
        assert torch.allclose(transforms.affine(x, matrix), x, rtol=0, atol=2e-5)


def test_scale_above_one_shrinks_the_content_along_its_own_axis() -> None:
    x = torch.ones(1, 1, 1, 9, 9, dtype=torch.float64)
    matrix = transforms.scale_matrix(torch.tensor([[2.0, 1.0]]))
    out = transforms.affine(x, matrix)[0, 0, 0]
    # Columns sample at 2x: pixel offsets -8, -6, ... from the centre, inside the image for |offset| <= 4.
    assert out[0].tolist() == pytest.approx([0, 0, 1, 1, 1, 1, 1, 0, 0], abs=1e-12)
    assert torch.allclose(out, out[0].expand(9, 9), rtol=0, atol=1e-12)


@pytest.mark.parametrize("height,width", [(9, 9), (8, 13), (13, 8)])
def test_half_turn_mirrors_both_axes(height: int, width: int) -> None:
    x = blocks(1, 2, 1, height, width, dtype=torch.float64)
    out = transforms.affine(x, transforms.rotation_matrix(one(math.pi), height, width))
    assert torch.allclose(out[..., 1:-1, 1:-1], x.flip(-1, -2)[..., 1:-1, 1:-1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("height,width", [(9, 9), (9, 13), (13, 9)])
def test_quarter_turn_keeps_distances_on_any_aspect_ratio(height: int, width: int) -> None:
    x = torch.zeros(1, 1, 1, height, width, dtype=torch.float64)
    row, column = height // 2, width // 2
    x[..., row, column + 3] = 1
    out = transforms.affine(x, transforms.rotation_matrix(one(math.pi / 2), height, width))[0, 0, 0]
    # out(x, y) = in(-y, x): the pixel 3 to the right of the centre appears 3 above it, undistorted.
    expected = torch.zeros_like(out)
    expected[row - 3, column] = 1
    assert torch.allclose(out, expected, rtol=0, atol=1e-10)


def test_colour_composes_brightness_saturation_contrast_in_order() -> None:
    x = blocks(2, 3, 3, 8, 8, dtype=torch.float64)
    b, s, k = torch.tensor([0.3, -0.4]), torch.tensor([0.2, 1.7]), torch.tensor([0.6, 1.4])
    b, s, k = b.double(), s.double(), k.double()
    shaped = [value.view(-1, 1, 1, 1, 1) for value in (b, s, k)]
    y = x + shaped[0]
    y = (y - y.mean(2, keepdim=True)) * shaped[1] + y.mean(2, keepdim=True)
    mean = y.mean((2, 3, 4), keepdim=True)
    assert torch.allclose(transforms.color(x, b, s, k), (y - mean) * shaped[2] + mean, rtol=0, atol=1e-14)


def test_each_colour_transform_keeps_its_mean() -> None:
    x = blocks(1, 4, 3, 8, 8, dtype=torch.float64)
    contrasted = transforms.color(x, one(0), one(1), one(1.4))
    assert not torch.allclose(contrasted, x)
    assert torch.allclose(contrasted.mean((2, 3, 4)), x.mean((2, 3, 4)), rtol=0, atol=1e-14)
    saturated = transforms.color(x, one(0), one(0.3), one(1))
    assert not torch.allclose(saturated, x)
    assert torch.allclose(saturated.mean(2), x.mean(2), rtol=0, atol=1e-14)


def test_saturation_of_one_channel_is_the_identity() -> None:
    x = blocks(1, 4, 1, 8, 8)
    assert torch.equal(transforms.color(x, one(0), one(0.1), one(1)), x)


def test_flip_mirrors_columns_and_twice_is_the_identity() -> None:
    x = blocks(2, 2, 1, 3, 5)
    out = transforms.flip(x, torch.tensor([True, False]))
    assert torch.equal(out[0], x[0].flip(-1)) and torch.equal(out[1], x[1])
    assert torch.equal(transforms.flip(out, torch.tensor([True, False])), x)
