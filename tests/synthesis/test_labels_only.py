"""Labels-only: images stay, labels move."""

from __future__ import annotations

import pytest
import torch

from ddkit.errors import ConfigError
from ddkit.synthesis import LabelsOnly
from ddkit.testing import toy_data


def started(**options) -> LabelsOnly:
    data = toy_data()
    synthesizer = LabelsOnly(3, 2, data.shape, **options)
    synthesizer.initialise(data, "real", torch.Generator().manual_seed(0))
    return synthesizer


def test_images_are_real_and_labels_uniform() -> None:
    synthesizer = started()
    images, labels = synthesizer()
    assert torch.equal(images, toy_data().batch(synthesizer.pairs))
    torch.testing.assert_close(labels, torch.full((6, 3), 1 / 3))


def test_only_labels_are_learned() -> None:
    synthesizer = started()
    groups = synthesizer.parameter_groups()
    assert list(groups) == ["labels"] and [tuple(p.shape) for p in groups["labels"]] == [(6, 3)]
    images, labels = synthesizer()
    assert not images.requires_grad and labels.requires_grad
    assert [p.shape for p in synthesizer.learnable()] == [(6, 3)]


@pytest.mark.parametrize("labels", ["projected", "learned", "free", "centred"])
def test_learned_kinds_are_taken(labels: str) -> None:
    assert started(labels=labels)()[1].requires_grad


@pytest.mark.parametrize("labels", ["hard", "soft", "assigned", torch.full((6, 3), 1 / 3)])
def test_labels_that_are_not_learned_are_refused(labels) -> None:
    with pytest.raises(ConfigError, match="leaves labels-only nothing to learn"):
        started(labels=labels)


def test_images_are_real_ones_always() -> None:
    with pytest.raises(ConfigError, match="initialisation of labels-only"):
        started().initialise(toy_data(), "noise", torch.Generator())


def test_state_holds_images_and_labels() -> None:
    first = started()
    with torch.no_grad():
        first.labels.rows.uniform_(generator=torch.Generator().manual_seed(1))
    second = LabelsOnly(3, 2, first.shape)
    second.load_state_dict(first.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(first(), second(), strict=True))
