"""Targets of synthetic images: hard, fixed probabilities, learned probabilities."""

from __future__ import annotations

import pytest
import torch

from ddkit.errors import ConfigError
from ddkit.synthesis import FreeLabels, HardLabels, ProjectedLabels, SoftLabels, registry
from ddkit.synthesis.labels import AssignedLabels, make_labels

CLASSES = torch.tensor([0, 0, 1, 2])
ALL = torch.arange(4)


def test_hard_labels_are_the_classes() -> None:
    labels = make_labels("hard", CLASSES, 3, 0.9)
    assert isinstance(labels, HardLabels)
    assert labels(torch.tensor([3, 0])).tolist() == [2, 0]
    assert labels.artifact_kind == "hard"
    assert list(labels.parameters()) == []


@pytest.mark.parametrize("kind", ["soft", "learned"])
def test_soft_labels_start_with_the_confidence_on_the_own_class(kind: str) -> None:
    labels = make_labels(kind, CLASSES, 3, 0.8)
    rows = labels(ALL).detach()
    torch.testing.assert_close(rows.sum(1), torch.ones(4))
    torch.testing.assert_close(rows[ALL, CLASSES], torch.full((4,), 0.8))
    torch.testing.assert_close(rows[0, 1:], torch.full((2,), 0.1))
    assert labels.artifact_kind == "soft"


def test_given_probabilities_are_kept_exactly() -> None:
    given = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0, 0.25, 0.75], [0.2, 0.3, 0.5]])
    labels = make_labels(given, CLASSES, 3, 0.9)
    assert torch.equal(labels(ALL), given)
    assert not any(p.requires_grad for p in labels.parameters())


def test_learned_labels_follow_a_gradient_and_stay_probabilities() -> None:
    labels = make_labels("learned", CLASSES, 3, 0.9)
    assert isinstance(labels, SoftLabels)
    optimiser = torch.optim.SGD(labels.parameters(), lr=50.0)
    for _ in range(20):
        optimiser.zero_grad()
        (labels(ALL) * torch.tensor([0.0, 0.0, 1.0])).sum().neg().backward()
        optimiser.step()
    rows = labels(ALL).detach()
    torch.testing.assert_close(rows.sum(1), torch.ones(4))
    assert rows.argmax(1).tolist() == [2, 2, 2, 2]


def test_confidence_of_one_is_finite_when_learned() -> None:
    labels = make_labels("learned", CLASSES, 3, 1.0)
    labels(ALL).square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in labels.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", ["hard", "soft", "learned", "assigned", "free", "centred", "projected"])
def test_state_survives(kind: str) -> None:
    first, second = make_labels(kind, CLASSES, 3, 0.9), make_labels(kind, CLASSES, 3, 0.5)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(ALL), second(ALL))


def test_assigned_labels_start_one_hot_and_take_what_is_assigned() -> None:
    labels = make_labels("assigned", CLASSES, 3, 0.9)
    assert isinstance(labels, AssignedLabels)
    assert labels.artifact_kind == "soft"
    assert list(labels.parameters()) == []
    assert labels(ALL).tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    labels.assign(torch.tensor([3, 0]), torch.tensor([[0.2, 0.3, 0.5], [0.0, 0.5, 0.5]], dtype=torch.float64))
    torch.testing.assert_close(labels(torch.tensor([0, 3])), torch.tensor([[0.0, 0.5, 0.5], [0.2, 0.3, 0.5]]))
    assert labels(torch.tensor([1, 2])).tolist() == [[1, 0, 0], [0, 1, 0]]
    other = make_labels("assigned", CLASSES, 3, 0.9)
    other.load_state_dict(labels.state_dict())
    assert torch.equal(other(ALL), labels(ALL))


@pytest.mark.parametrize("row", [[0.5, 0.4, 0.0], [1.5, -0.5, 0.0], [float("nan"), 0.5, 0.5]])
def test_assigning_what_is_no_distribution_is_refused(row: list[float]) -> None:
    labels = AssignedLabels(CLASSES, 3)
    with pytest.raises(ConfigError, match="must be probabilities"):
        labels.assign(torch.tensor([1]), torch.tensor([row]))
    assert labels(ALL)[1].tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("kind", "confidence", "message"),
    [
        ("harsh", 0.9, "unknown labels 'harsh'"),
        ("soft", 0.3, r"label_confidence=0.3 must lie in \(1/3, 1\]"),
        ("soft", 1.1, "label_confidence=1.1"),
        (torch.ones(4, 3), 0.9, "must be probabilities"),
        (torch.tensor([[2.0, -1.0, 0.0]] * 4), 0.9, "must be probabilities"),
        (torch.full((4, 3), float("nan")), 0.9, "must be probabilities"),
        (torch.ones(4, 2) / 2, 0.9, r"shape \(4, 2\), expected \(4, 3\)"),
    ],
)
def test_what_is_no_distribution_is_refused(kind, confidence: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_labels(kind, CLASSES, 3, confidence)


def test_free_labels_start_one_hot_and_take_any_value() -> None:
    labels = make_labels("free", CLASSES, 3, 0.9)
    assert isinstance(labels, FreeLabels) and labels.artifact_kind == "regression"
    assert labels(ALL).tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    with torch.no_grad():
        labels.rows.sub_(5)
    labels.after_step()
    assert labels(ALL[:1]).tolist() == [[-4, -5, -5]]


def test_centred_labels_start_scaled_around_zero() -> None:
    labels = make_labels("centred", CLASSES, 3, 0.9, label_scale=3.0)
    assert labels.artifact_kind == "regression"
    torch.testing.assert_close(labels(ALL[2:3]).detach(), torch.tensor([[-1.0, 2.0, -1.0]]))


def test_projection_clamps_and_normalises_every_row() -> None:
    labels = make_labels("projected", CLASSES, 3, 0.8).double()
    assert isinstance(labels, ProjectedLabels) and labels.artifact_kind == "soft"
    moved = [[0.5, 2.0, -1.0], [0.2, 0.3, 0.5], [-1.0, -2.0, 0.0], [0.1, 0.1, 0.2]]
    with torch.no_grad():
        labels.rows.copy_(torch.tensor(moved))
    labels.after_step()
    expected = [[1 / 3, 2 / 3, 0.0], [0.2, 0.3, 0.5], [1 / 3] * 3, [0.25, 0.25, 0.5]]
    torch.testing.assert_close(labels(ALL).detach(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-7)
    rows = labels(ALL).detach()
    assert float((rows.sum(1) - 1).abs().max()) < 1e-12 and float(rows.min()) >= 0


@pytest.mark.parametrize("kind", ["projected", "learned"])
def test_learned_probabilities_may_start_uniform(kind: str) -> None:
    torch.testing.assert_close(make_labels(kind, CLASSES, 3, 1 / 3)(ALL).detach(), torch.full((4, 3), 1 / 3))
    with pytest.raises(ConfigError, match=r"label_confidence=0\.2 must lie in \(1/3, 1\]"):
        make_labels(kind, CLASSES, 3, 0.2)


def test_scales_and_kinds_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="label_scale=0"):
        make_labels("free", CLASSES, 3, 0.9, label_scale=0.0)
    with pytest.raises(ConfigError, match="scales free and centred labels, these are 'soft'"):
        make_labels("soft", CLASSES, 3, 0.9, label_scale=2.0)
    with pytest.raises(ConfigError, match="did you mean 'free'"):
        make_labels("fre", CLASSES, 3, 0.9)


@pytest.mark.parametrize("how", ["pixels", "multi-formation"])
def test_a_synthesizer_projects_its_labels_after_a_step(how: str) -> None:
    synthesizer = registry.create(how, {"labels": "projected"}, num_classes=3, ipc=2, shape=(1, 16, 16))
    with torch.no_grad():
        synthesizer.labels.rows.add_(1)
    synthesizer.after_step()
    torch.testing.assert_close(synthesizer()[1].sum(1), torch.ones(len(synthesizer)))
