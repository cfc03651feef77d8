"""Gradient distances against hand-computed values."""

import pytest
import torch

from ddkit.errors import UnknownNameError
from ddkit.objectives import gradient_distance

A = torch.tensor([[3.0, 4.0], [0.0, 1.0]], dtype=torch.float64)
B = torch.tensor([[4.0, 3.0], [0.0, -1.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [("ours", 2.0399990384), ("cos", 0.1153846494), ("mse", 6.0), ("angle+magnitude", 5.4542126008)],
)
def test_distance_equals_the_value_computed_by_hand(metric: str, expected: float) -> None:
    assert gradient_distance([A[None]], [B[None]], metric).item() == pytest.approx(expected, abs=1e-9)


def test_zero_rows_have_distance_one_each_and_a_finite_gradient() -> None:
    zero = torch.zeros_like(A, requires_grad=True)
    distance = gradient_distance([zero[None]], [A[None]], "ours")
    distance.sum().backward()
    assert distance.item() == 2.0
    expected = torch.tensor([[-3e6, -4e6], [0.0, -1e6]], dtype=torch.float64)
    torch.testing.assert_close(zero.grad, expected)


@pytest.mark.parametrize("metric", ["ours", "angle+magnitude"])
def test_tensors_of_rank_one_contribute_nothing(metric: str) -> None:
    bias = [torch.tensor([[1.0, 2.0, 3.0]])], [torch.tensor([[-3.0, 5.0, 0.0]])]
    assert gradient_distance(*bias, metric).item() == 0.0


@pytest.mark.parametrize("metric", ["mse", "cos"])
def test_vector_metrics_do_see_tensors_of_rank_one(metric: str) -> None:
    assert gradient_distance([torch.tensor([[1.0, 2.0]])], [torch.tensor([[-3.0, 5.0]])], metric).item() > 0.1


def test_convolution_rows_are_those_of_the_equal_linear_weight() -> None:
    convolution = gradient_distance([A.view(1, 2, 1, 1, 2)], [B.view(1, 2, 1, 1, 2)])
    assert convolution.item() == gradient_distance([A[None]], [B[None]]).item()


def test_magnitude_term_is_differentiable_where_both_sides_agree() -> None:
    same = A.clone().requires_grad_()
    gradient_distance([same[None]], [A[None]], "angle+magnitude").sum().backward()
    assert same.grad is not None and bool(same.grad.isfinite().all())


def test_classes_are_kept_apart() -> None:
    both = gradient_distance([torch.stack([A, B])], [torch.stack([B, B])])
    assert both[0].item() == pytest.approx(2.0399990384, abs=1e-9)
    assert both[1].item() == pytest.approx(0.0, abs=1e-5)


def test_unknown_metric_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'ours'"):
        gradient_distance([A[None]], [B[None]], "our")
