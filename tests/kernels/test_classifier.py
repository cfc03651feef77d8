"""Kernel ridge regression as a classifier, and labels solved for it."""

from __future__ import annotations

import pytest
import torch

from ddkit.errors import ConfigError, DivergedError, RunError
from ddkit.models.kernels import (
    KernelClassifier,
    NetworkFeatures,
    infinite_kernel,
    regression_rows,
    solve_labels,
    with_mirrored,
)
from tests.kernels.oracles import random_images

SHAPE = (1, 3, 4)
KERNEL = infinite_kernel("fc1", SHAPE)


class Pixels:
    """Pixels as features."""

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


def system(x: torch.Tensor, regulariser: float) -> torch.Tensor:
    gram = KERNEL.gram(x.flatten(1))
    return gram + regulariser * gram.trace() / len(x) * torch.eye(len(x), dtype=torch.float64)


def test_prediction_is_the_closed_form_in_chunks_of_any_size() -> None:
    x, t, y = random_images(6, SHAPE), random_images(9, SHAPE, 1), random_images(6, (1, 1, 3), 2).flatten(1)
    expected = KERNEL.cross(t, x.flatten(1)) @ torch.linalg.inv(system(x, 0.01)) @ y
    classifier = KernelClassifier(KERNEL, x, y, 0.01)
    for chunk in (1, 4, 100):
        torch.testing.assert_close(classifier.predict(t, chunk), expected, rtol=1e-10, atol=1e-10)


def test_training_images_are_classified_correctly_without_regulariser() -> None:
    x, labels = random_images(8, SHAPE), torch.arange(8) % 4
    classifier = KernelClassifier(KERNEL, x, regression_rows(labels, 4, "hard"), 0.0)
    assert classifier.accuracy(x, labels) == 1.0
    assert classifier.accuracy(x, (labels + 1) % 4) == 0.0


def test_rows_of_hard_and_soft_labels_are_centred() -> None:
    hard, soft = torch.tensor([1, 0]), torch.tensor([[0.2, 0.8], [1.0, 0.0]])
    assert regression_rows(hard, 2, "hard").tolist() == [[-0.5, 0.5], [0.5, -0.5]]
    torch.testing.assert_close(regression_rows(soft, 2, "soft"), soft - 0.5)
    assert torch.equal(regression_rows(soft, 2, "regression"), soft)


def test_mirrored_images_keep_their_rows() -> None:
    x, y = random_images(2, SHAPE), torch.eye(2)
    images, rows = with_mirrored(x, y)
    assert torch.equal(images[2:], x.flip(3)) and torch.equal(rows, torch.cat([y, y]))


def test_equal_images_without_regulariser_name_the_remedy() -> None:
    x = torch.ones(3, *SHAPE, dtype=torch.float64)
    with pytest.raises(RunError, match=r"3 support images with a regulariser of 0 is not positive definite.*raise"):
        KernelClassifier(NetworkFeatures([Pixels()]), x, torch.eye(3), 0.0)


def test_diverged_images_are_named_as_such() -> None:
    x = (1e30 * random_images(2, SHAPE)).float()
    with pytest.raises(DivergedError, match=r"lower optimiser\.lr"):
        KernelClassifier(KERNEL, x, torch.eye(2))


@pytest.mark.parametrize(
    ("images", "labels", "regulariser", "message"),
    [
        (torch.rand(3, *SHAPE), torch.rand(2, 2), 1e-6, "belong|needs"),
        (torch.rand(3, 12), torch.rand(3, 2), 1e-6, "needs"),
        (torch.zeros(2, *SHAPE, dtype=torch.int64), torch.rand(2, 2), 1e-6, "finite floating-point"),
        (torch.full((2, *SHAPE), float("nan")), torch.rand(2, 2), 1e-6, "finite floating-point"),
        (torch.rand(2, *SHAPE), torch.rand(2, 2), -1.0, "regulariser=-1.0"),
        (torch.rand(2, *SHAPE), torch.rand(2, 2), float("inf"), "regulariser=inf"),
    ],
)
def test_bad_input_is_refused(images, labels, regulariser, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        KernelClassifier(KERNEL, images, labels, regulariser)


def loss(x: torch.Tensor, y: torch.Tensor, t: torch.Tensor, rows: torch.Tensor, regulariser: float) -> torch.Tensor:
    support = x.flatten(1)
    return 0.5 * (KERNEL.predict(t, support, KERNEL.fit(support, y, regulariser)) - rows).square().mean()


def test_solved_labels_are_a_stationary_point_at_the_floor() -> None:
    x, t, rows = random_images(5, SHAPE), random_images(40, SHAPE, 1), random_images(40, (1, 1, 3), 2).flatten(1)
    solved = solve_labels(KERNEL, x, t, rows, 0.01).requires_grad_()
    value = loss(x, solved, t, rows, 0.01)
    gradient = torch.autograd.grad(value, solved)[0]
    cross = KERNEL.cross(t, x.flatten(1))
    floor = 0.5 * (cross @ torch.linalg.lstsq(cross, rows).solution - rows).square().mean()
    assert gradient.abs().max() < 1e-13
    assert value.item() == pytest.approx(floor.item(), rel=1e-12)
    other = torch.autograd.grad(loss(x, solved + 1, t, rows, 0.01), solved)[0]
    assert other.abs().max() > 1e-4


def test_solved_labels_agree_with_the_published_normal_equations() -> None:
    x, t, rows = random_images(4, SHAPE), random_images(60, SHAPE, 1), random_images(60, (1, 1, 2), 2).flatten(1)
    gram, cross, eye = KERNEL.gram(x.flatten(1)), KERNEL.cross(t, x.flatten(1)), torch.eye(4, dtype=torch.float64)
    small = 1e-6 / 4
    official = (gram + small * eye) @ torch.linalg.solve(cross.T @ cross + small * eye, cross.T @ rows)
    solved = solve_labels(KERNEL, x, t, rows, 1e-6 / float(gram.trace()))
    assert float((official - solved).norm() / solved.norm()) < 4e-6


def test_more_images_than_targets_have_no_solved_labels() -> None:
    with pytest.raises(ConfigError, match="labels of 5 images are not determined by 4 real images"):
        solve_labels(KERNEL, random_images(5, SHAPE), random_images(4, SHAPE), torch.eye(4))
