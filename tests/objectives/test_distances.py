"""Gradient distances against hand-computed values."""

import pytest
import torch

from ddkit.errors import ConfigError, UnknownNameError
from ddkit.models import ModelSpec
from ddkit.objectives import gradient_distance
from ddkit.objectives.distances import check_metric, matched_names

A = torch.tensor([[3.0, 4.0], [0.0, 1.0]], dtype=torch.float64)
B = torch.tensor([[4.0, 3.0], [0.0, -1.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("ours", 2.0399990384),
        ("cos", 0.1153846494),
        ("mse", 6.0),
        ("angle+magnitude", 5.4542126008),
        ("l1", 4.0),
        ("l1_mean", 2.0),
    ],
)
def test_distance_equals_the_value_computed_by_hand(metric: str, expected: float) -> None:
    convolution = [A.view(1, 2, 1, 1, 2)], [B.view(1, 2, 1, 1, 2)]
    assert gradient_distance([A[None]], [B[None]], metric).item() == pytest.approx(expected, abs=1e-9)
    assert gradient_distance(*convolution, metric).item() == pytest.approx(expected, abs=1e-9)


def test_mean_of_a_row_has_the_length_of_the_row() -> None:
    wide, zero = torch.tensor([[[3.0, 0.0, 0.0, -1.0], [2.0, 2.0, 2.0, 2.0]]]), torch.zeros(1, 2, 4)
    assert gradient_distance([wide], [zero], "l1_mean").item() == 3.0
    assert gradient_distance([wide], [zero], "l1").item() == 12.0


def test_zero_rows_have_distance_one_each_and_a_finite_gradient() -> None:
    zero = torch.zeros_like(A, requires_grad=True)
    distance = gradient_distance([zero[None]], [A[None]], "ours")
    distance.sum().backward()
    assert distance.item() == 2.0
    expected = torch.tensor([[-3e6, -4e6], [0.0, -1e6]], dtype=torch.float64)
    torch.testing.assert_close(zero.grad, expected)


@pytest.mark.parametrize("metric", ["ours", "angle+magnitude", "l1_mean"])
def test_tensors_of_rank_one_contribute_nothing(metric: str) -> None:
    bias = [torch.tensor([[1.0, 2.0, 3.0]])], [torch.tensor([[-3.0, 5.0, 0.0]])]
    assert gradient_distance(*bias, metric).item() == 0.0


@pytest.mark.parametrize("metric", ["mse", "cos", "l1"])
def test_vector_metrics_do_see_tensors_of_rank_one(metric: str) -> None:
    assert gradient_distance([torch.tensor([[1.0, 2.0]])], [torch.tensor([[-3.0, 5.0]])], metric).item() > 0.1


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


CONVOLUTIONS = ["stages.0.0.weight", "stages.1.1.weight"]


@pytest.mark.parametrize(
    ("metric", "weights", "expected"),
    [
        ("ours", "auto", [*CONVOLUTIONS, "classifier.weight"]),
        ("l1_mean", "auto", [*CONVOLUTIONS, "classifier.weight"]),
        ("mse", "matrices", [*CONVOLUTIONS, "classifier.weight"]),
        ("mse", "convolutions", CONVOLUTIONS),
        ("l1", "convolutions", CONVOLUTIONS),
        ("ours", "convolutions", CONVOLUTIONS),
    ],
)
def test_matched_weights_have_the_rank_that_was_asked_for(metric: str, weights: str, expected: list[str]) -> None:
    module = ModelSpec.parse("convnet:width=2,depth=2").build((1, 8, 8), 2, seed=0)
    assert matched_names(module, metric, weights) == expected


@pytest.mark.parametrize("weights", ["auto", "all"])
@pytest.mark.parametrize("metric", ["mse", "cos", "l1"])
def test_vector_metrics_match_every_weight_by_default(metric: str, weights: str) -> None:
    module = ModelSpec.parse("convnet:width=2,depth=2").build((1, 8, 8), 2, seed=0)
    assert matched_names(module, metric, weights) == [name for name, _ in module.named_parameters()]


def test_matrices_include_the_affine_maps_of_a_layer_norm() -> None:
    module = ModelSpec.parse("convnet:width=2,depth=2,norm=layer").build((1, 8, 8), 2, seed=0)
    assert "stages.0.1.weight" in matched_names(module, "ours", "matrices")
    assert "stages.0.1.weight" not in matched_names(module, "ours", "convolutions")


def test_network_without_convolutions_has_none_to_match() -> None:
    module = ModelSpec.parse("mlp").build((1, 8, 8), 2, seed=0)
    with pytest.raises(ConfigError, match="weights=convolutions finds nothing to match: MLP has no weights of rank 4"):
        matched_names(module, "mse", "convolutions")


def test_choices_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'convolutions'"):
        check_metric("mse", "convolution")
    for metric in ("ours", "angle+magnitude", "l1_mean"):
        with pytest.raises(ConfigError, match="compares output rows"):
            check_metric(metric, "all")
