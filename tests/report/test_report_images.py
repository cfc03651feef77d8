"""Do image grids show the right pixels in the right place?"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ddkit.errors import ConfigError, DataError
from ddkit.evaluation.report import image_grid
from ddkit.evaluation.report.images import automatic_scale

MARGIN, GAP, LABEL, BAND = 20, 6, 26, 22


def random_images(n: int, channels: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (n, channels, size, size), generator=generator).float() / 255


def test_every_pixel_is_repeated_in_the_column_of_its_class() -> None:
    images, labels = random_images(4, 3, 8), torch.tensor([1, 0, 1, 0])
    grid = np.asarray(image_grid(images, labels, ["cat", "dog"], scale=3))
    assert grid.shape == (2 * MARGIN + LABEL + 2 * 24 + GAP, 2 * MARGIN + 2 * 24 + GAP, 3)
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    for index, (column, row) in {0: (1, 0), 1: (0, 0), 2: (1, 1), 3: (0, 1)}.items():
        left, top = MARGIN + column * (24 + GAP), MARGIN + LABEL + row * (24 + GAP)
        expected = pixels[index].repeat(3, axis=0).repeat(3, axis=1)
        assert np.array_equal(grid[top : top + 24, left : left + 24], expected)


def test_classes_wrap_after_ten_columns() -> None:
    grid = image_grid(random_images(12, 1, 8), torch.arange(12), [str(i) for i in range(12)], scale=4)
    assert grid.size == (2 * MARGIN + 10 * (32 + GAP) - GAP, 2 * MARGIN + 2 * (LABEL + 32) + BAND)


def test_only_the_first_images_of_a_class_are_shown_and_absent_classes_take_no_room() -> None:
    images, labels = random_images(6, 1, 8), torch.tensor([2, 2, 2, 0, 0, 0])
    grid = image_grid(images, labels, ["a", "b", "c"], per_class=2, scale=2)
    assert grid.size == (2 * MARGIN + 2 * (16 + GAP) - GAP, 2 * MARGIN + LABEL + 2 * (16 + GAP) - GAP)


def test_large_images_are_averaged_down() -> None:
    checkerboard = (torch.arange(224).view(-1, 1) + torch.arange(224)).remainder(2).float()
    grid = np.asarray(image_grid(checkerboard.view(1, 1, 224, 224), torch.tensor([0]), ["board"]))
    tile = grid[MARGIN + LABEL : MARGIN + LABEL + 112, MARGIN : MARGIN + 112]
    assert set(np.unique(tile)) <= {127, 128}


@pytest.mark.parametrize(("width", "scale"), [(8, 12), (28, 3), (32, 3), (64, 1), (128, 1), (224, 0.5), (512, 1 / 6)])
def test_automatic_scale_keeps_tiles_readable(width: int, scale: float) -> None:
    assert automatic_scale(width) == pytest.approx(scale)


def test_long_class_names_do_not_run_into_the_next_column() -> None:
    name = "a very long class name that nobody can read in full"
    grid = np.asarray(image_grid(random_images(2, 1, 28), torch.tensor([0, 1]), [name, ""]))
    header = grid[MARGIN : MARGIN + LABEL]
    assert header[:, MARGIN : MARGIN + 84].min() < 128
    assert header[:, MARGIN + 84 :].min() == 255


@pytest.mark.parametrize(
    ("images", "labels", "names", "message"),
    [
        (torch.zeros(2, 2, 8, 8), torch.zeros(2, dtype=torch.long), ["a"], "C 1 or 3"),
        (torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.long), ["a"], "cannot be drawn"),
        (torch.zeros(2, 1, 8, 8), torch.zeros(3, dtype=torch.long), ["a"], "do not fit 2 images"),
        (torch.zeros(2, 1, 8, 8), torch.zeros(2), ["a"], "one integer an image"),
        (torch.full((2, 1, 8, 8), torch.nan), torch.zeros(2, dtype=torch.long), ["a"], "NaN"),
        (torch.full((2, 1, 8, 8), -1.5), torch.zeros(2, dtype=torch.long), ["a"], r"viewable\(\)"),
        (torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]), ["a"], "1 class names"),
    ],
)
def test_images_that_cannot_be_drawn_are_refused(
    images: torch.Tensor, labels: torch.Tensor, names: list[str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        image_grid(images, labels, names)


@pytest.mark.parametrize("options", [{"per_class": 0}, {"columns": 0}, {"scale": 0.0}, {"scale": float("nan")}])
def test_sizes_that_are_not_positive_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="must be positive"):
        image_grid(torch.zeros(1, 1, 8, 8), torch.tensor([0]), ["a"], **options)  # type: ignore[arg-type]
