"""Does a loop over a set's items train as the set was meant, whatever its labels are?"""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from ddkit.data import Preprocessing
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.models import ModelSpec


def made(labels: Tensor, kind: str, recipe: dict[str, object] | None = None) -> DistilledDataset:
    images = torch.randn(len(labels), 1, 8, 8, generator=torch.Generator().manual_seed(0))
    metadata = {"recipe": recipe} if recipe else {}
    return DistilledDataset(
        images,
        labels,
        label_kind=kind,  # type: ignore[arg-type]
        class_names=("a", "b", "c"),
        preprocessing=Preprocessing(mean=(0.5,), std=(0.5,)),
        metadata=metadata,
    )


HARD = torch.tensor([0, 1, 2, 2])
SOFT = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.0, 0.0, 1.0], [0.3, 0.3, 0.4]])
FREE = torch.tensor([[0.9, -0.3, -0.4], [-0.5, 0.8, -0.2], [-0.3, -0.3, 0.7], [1.5, -0.7, -0.7]])
OUTPUTS = torch.tensor([[1.0, -1.0, 0.5], [0.2, 0.1, 0.0], [3.0, -2.0, 1.0], [0.0, 0.0, 0.0]])


def test_loss_is_that_of_the_labels_kind_and_recipe() -> None:
    assert torch.equal(made(HARD, "hard").loss(OUTPUTS, HARD), F.cross_entropy(OUTPUTS, HARD))
    assert torch.equal(made(SOFT, "soft").loss(OUTPUTS, SOFT), F.cross_entropy(OUTPUTS, SOFT))
    assert torch.equal(made(FREE, "regression").loss(OUTPUTS, FREE), F.mse_loss(OUTPUTS, FREE))
    scaled = made(FREE, "regression", {"loss": "mse", "label_scale": 4.0})
    torch.testing.assert_close(scaled.loss(OUTPUTS, FREE), ((OUTPUTS - 4 * FREE) / 4).square().mean())
    squared = made(HARD, "hard", {"loss": "mse"})
    torch.testing.assert_close(squared.loss(OUTPUTS, HARD), (OUTPUTS - (F.one_hot(HARD, 3) - 1 / 3)).square().mean())
    rows = FREE.clamp(min=0)
    learned = made(FREE, "regression", {"loss": "ce"})
    torch.testing.assert_close(learned.loss(OUTPUTS, FREE), F.cross_entropy(OUTPUTS, rows / rows.sum(1, keepdim=True)))


def test_items_with_regression_rows_say_once_how_to_train() -> None:
    distilled = made(FREE, "regression")
    with pytest.warns(UserWarning, match=r"from -0.7 to 1.5.*loss\(outputs, labels\)"):
        list(DataLoader(distilled, batch_size=2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(DataLoader(distilled, batch_size=2))
        distilled[0]
        list(DataLoader(made(SOFT, "soft"), batch_size=2))


@pytest.mark.filterwarnings("ignore:the labels of this set")
def test_a_plain_loop_over_regression_rows_converges_by_the_sets_loss_and_not_by_cross_entropy() -> None:
    distilled = made(FREE, "regression")
    ends = []
    for loss in (distilled.loss, F.cross_entropy):
        model = ModelSpec("convnet", {"depth": 1, "width": 8}).build((1, 8, 8), 3, seed=0)
        sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(150):
            for images, labels in DataLoader(distilled, batch_size=4):
                value = loss(model(images), labels)
                sgd.zero_grad()
                value.backward()
                sgd.step()
        ends.append(float(value.detach()))
    assert 0 <= ends[0] < 0.05
    assert not ends[1] > -100  # no lower bound: what the warning is about
