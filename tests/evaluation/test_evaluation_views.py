"""Does an epoch show one random view of every stored code?"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddkit.base.streams import Streams
from ddkit.errors import ConfigError, DataError
from ddkit.evaluation import evaluate
from ddkit.training import TrainingRecipe, train_networks
from ddkit.training.batches import Batches, training_set

from .conftest import TINY, random_set

THREE_VIEWS = TrainingRecipe(epochs=12, schedule="constant", batch_size=4, views=3)


def numbered(codes: int = 6, views: int = 3) -> tuple[Tensor, Tensor]:
    """Images whose first pixel is their number; codes 0 and 1 are of class 0, 2 and 3 of class 1, and so on."""
    images = torch.randn(codes * views, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    images[:, 0, 0, 0] = torch.arange(codes * views)
    return images, torch.arange(codes * views) // (2 * views)


def epochs(recipe: TrainingRecipe, count: int, networks: int = 1, pad: bool = False) -> list[Tensor]:
    """The images (R, ...) shown in each epoch, by number, after checking that labels follow them."""
    images, labels = numbered()
    data = training_set(images, labels, recipe, 3, torch.device("cpu"))
    batches = Batches(data, recipe, [Streams(seed) for seed in range(networks)], pad)
    shown = []
    for _ in range(count):
        parts = []
        for batch, targets, weights in batches.epoch():
            index = batch[:, :, 0, 0, 0].long()
            assert torch.equal(targets, labels[index])
            parts.append(index[:, : int((weights > 0).sum())])
        shown.append(torch.cat(parts, dim=1))
    return shown


@pytest.mark.parametrize("pad", [False, True])
def test_an_epoch_shows_every_code_once(pad: bool) -> None:
    for index in epochs(THREE_VIEWS, 5, networks=2, pad=pad):
        assert torch.equal((index // 3).sort(dim=1).values, torch.arange(6).expand(2, -1))


def test_every_pair_of_code_and_view_is_shown_within_a_few_epochs() -> None:
    shown = torch.cat(epochs(THREE_VIEWS, 25), dim=1)
    assert shown.unique().tolist() == list(range(18))
    counts = torch.bincount(shown.flatten())
    assert counts.max() < 4 * counts.min()


def test_views_come_from_a_stream_of_their_own() -> None:
    images, labels = numbered()
    every_third = training_set(images[::3], labels[::3], THREE_VIEWS.replace(views=1), 3, torch.device("cpu"))
    plain = Batches(every_third, THREE_VIEWS.replace(views=1), [Streams(0)], pad=False)
    for index in epochs(THREE_VIEWS, 3):
        order = torch.cat([batch[0, :, 0, 0, 0].long() for batch, _, _ in plain.epoch()])
        assert torch.equal(index[0] // 3, order // 3)


def test_networks_see_views_of_their_own() -> None:
    first, second = epochs(THREE_VIEWS, 1, networks=2)[0]
    assert not torch.equal((first.sort().values) % 3, (second.sort().values) % 3)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("cutmix", [0.0, 0.5])
def test_stacked_and_padded_training_equal_serial_training(soft: bool, cutmix: float) -> None:
    images, labels = numbered()
    images[:, 0, 0, 0] = 0
    targets = F.one_hot(labels, 3).double() * 0.7 + 0.1 if soft else labels
    recipe = THREE_VIEWS.replace(cutmix=cutmix, augmentation="crop")
    options = {"num_classes": 3, "spec": TINY, "recipe": recipe, "seeds": [1, 2]}
    serial = train_networks(images, targets, stacked=False, pad_last=False, **options)
    for how in ({"stacked": True, "pad_last": True}, {"stacked": False, "pad_last": True}):
        for one, other in zip(serial, train_networks(images, targets, **how, **options), strict=True):
            torch.testing.assert_close(weights(one), weights(other), rtol=0, atol=1e-9)
    assert (weights(serial[0]) - weights(serial[1])).abs().max() > 1e-3


def test_steps_count_codes_and_not_their_views(digits) -> None:
    assert THREE_VIEWS.steps(18) == 12 * 2
    assert THREE_VIEWS.replace(views=1).steps(18) == 12 * 5
    train, test = digits
    recipe = TrainingRecipe(epochs=2, schedule="constant", batch_size=8, views=2)
    result = evaluate(random_set(train, 2), test, (TINY,), repeats=1, recipe=recipe)
    assert result.rows[0].steps == 2 * 2 and result.train_images == 20


def test_sets_that_are_no_runs_of_views_are_refused() -> None:
    images, labels = numbered()
    options = {"spec": TINY, "seeds": [0], "num_classes": 3}
    with pytest.raises(DataError, match=r"18 training images are no runs of 4 views .*set the recipe's views"):
        train_networks(images, labels, recipe=THREE_VIEWS.replace(views=4), **options)
    with pytest.raises(DataError, match="different classes share a run of 9 views"):
        train_networks(images, labels, recipe=THREE_VIEWS.replace(views=9), **options)
    with pytest.raises(ConfigError, match="views=0"):
        TrainingRecipe(views=0)
