"""Soft labels that experts give: in every segment, once, and on the result."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ddkit.objectives.trajectory import TrajectoryMatching
from ddkit.synthesis import Synthesizer
from tests.objectives.expert_stub import StubExperts
from tests.objectives.test_trajectory import DSA, ready, run

EVERYTHING = torch.arange(6)


def probabilities(objective: TrajectoryMatching, synthesizer: Synthesizer, theta: Tensor) -> Tensor:
    """Return what a network with weights ``theta`` says about all images, run as a module."""
    module = objective.context.network.module
    torch.nn.utils.vector_to_parameters(theta, module.parameters())
    with torch.no_grad():
        return module(synthesizer(EVERYTHING)[0]).softmax(1)


def mean_of_experts(objective: TrajectoryMatching, synthesizer: Synthesizer) -> Tensor:
    source = objective.source
    rows = [probabilities(objective, synthesizer, source.weights(e, objective.last_epoch)) for e in range(source.count)]
    return torch.stack(rows).mean(0)


def labelling(kind: str, **options: object) -> tuple[TrajectoryMatching, Synthesizer, StubExperts]:
    source = StubExperts()
    objective, made = ready(
        TrajectoryMatching(student_steps=2, soft_labels=kind, **options),  # type: ignore[arg-type]
        source=source,
        strategy=DSA,
        labels="assigned",
    )
    return objective, made, source


def test_labels_of_a_segment_come_from_its_target_on_images_without_augmentation() -> None:
    objective, made, source = labelling("per_segment", max_start_epoch=4)
    run(objective, made, seed=2)
    expert, epoch = source.asked[-1]
    found = made.labels(EVERYTHING)
    torch.testing.assert_close(found, probabilities(objective, made, source.weights(expert, epoch + 2)))
    torch.testing.assert_close(found.sum(1), torch.ones(6, dtype=found.dtype))
    assert not found.requires_grad


def test_only_the_images_of_the_step_are_labelled() -> None:
    objective, made, _ = labelling("per_segment", batch_syn=2)
    before = made.labels(EVERYTHING).clone()
    run(objective, made)
    changed = (made.labels(EVERYTHING) != before).any(1)
    assert int(changed.sum()) == 4


def test_no_gradient_reaches_the_images_through_the_labeller() -> None:
    objective, made, _ = labelling("per_segment")
    run(objective, made, seed=1)
    with_labeller = made.images.grad.clone()  # type: ignore[union-attr]
    given, same = ready(TrajectoryMatching(student_steps=2), strategy=DSA, labels=made.labels(EVERYTHING).float())
    given.flat = objective.flat
    same.labels.probabilities = made.labels(EVERYTHING)  # in float64
    run(given, same, seed=1)
    torch.testing.assert_close(same.images.grad, with_labeller)
    assert list(made.parameter_groups()) == ["images"]


def test_fixed_labels_are_the_mean_of_all_experts_on_the_initial_images() -> None:
    objective, made, _ = labelling("fixed")
    expected = mean_of_experts(objective, made)
    run(objective, made)
    torch.testing.assert_close(made.labels(EVERYTHING), expected)
    with torch.no_grad():
        made.images.add_(1.0)
    run(objective, made)
    torch.testing.assert_close(made.labels(EVERYTHING), expected)


def test_a_resumed_run_does_not_label_again() -> None:
    objective, made, _ = labelling("fixed")
    run(objective, made)
    with torch.no_grad():
        made.images.add_(1.0)
    other, same, _ = labelling("fixed")
    same.load_state_dict(made.state_dict())
    other.load_state_dict(objective.state_dict())
    run(other, same)
    assert torch.equal(same.labels(EVERYTHING), made.labels(EVERYTHING))


@pytest.mark.parametrize("kind", ["per_segment", "fixed"])
def test_the_result_carries_the_mean_of_the_experts_on_the_final_images(kind: str) -> None:
    objective, made, source = labelling(kind)
    run(objective, made)
    with torch.no_grad():
        made.images.add_(0.5)
    kept = made.labels(EVERYTHING).clone()
    expected = mean_of_experts(objective, made)
    with objective.finishing(made):
        torch.testing.assert_close(made.stored()["labels"], expected)
    assert torch.equal(made.labels(EVERYTHING), kept)
    card = objective.metadata()["labeller"]
    assert (card["experts"], card["epoch"], card["during_training"]) == (source.count, 3, kind)


def test_finishing_restores_the_labels_after_an_error() -> None:
    objective, made, _ = labelling("per_segment")
    kept = made.labels(EVERYTHING).clone()
    with pytest.raises(KeyboardInterrupt), objective.finishing(made):
        raise KeyboardInterrupt
    assert torch.equal(made.labels(EVERYTHING), kept)


def test_without_soft_labels_finishing_changes_nothing() -> None:
    objective, made = ready(TrajectoryMatching())
    with objective.finishing(made):
        assert made.labels(EVERYTHING).tolist() == [0, 0, 1, 1, 2, 2]
    assert "labeller" not in objective.metadata()


def test_assigned_labels_are_counted_in_the_budget() -> None:
    _, made, _ = labelling("fixed")
    assert made.budget().floats == 6 * 64 + 6 * 3
