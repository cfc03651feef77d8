"""Pixels: where they start, what they store, which image belongs to which class."""

from __future__ import annotations

import pytest
import torch

from ddkit.data import RealData
from ddkit.data.coresets import kmeans_representatives, pixel_features
from ddkit.errors import ConfigError, DataError
from ddkit.synthesis import Pixels, class_means, decode
from ddkit.testing import toy_data


def started(how: str, ipc: int = 2, data: RealData | None = None, seed: int = 0, **options) -> Pixels:
    data = data or toy_data()
    pixels = Pixels(data.num_classes, ipc, data.shape, **options)
    pixels.initialise(data, how, torch.Generator().manual_seed(seed))
    return pixels


def test_images_are_class_major() -> None:
    pixels = started("noise", ipc=3)
    assert pixels.classes.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert pixels.index_of(torch.tensor([2, 0])).tolist() == [6, 7, 8, 0, 1, 2]
    images, targets = pixels(torch.tensor([4, 0]))
    assert torch.equal(images, pixels.images[[4, 0]]) and targets.tolist() == [1, 0]
    assert len(pixels()[0]) == len(pixels) == 9


def test_real_start_takes_distinct_images_of_the_own_class() -> None:
    data = toy_data()
    pixels = started("real", ipc=6, data=data)
    for number, index in enumerate(data.class_index):
        own = data.batch(index).flatten(1)
        rows = pixels.images.detach()[pixels.classes == number].flatten(1)
        matches = torch.cdist(rows, own).argmin(1)
        assert torch.equal(own[matches], rows)
        assert len(set(matches.tolist())) == 6


def test_kmeans_start_is_the_coreset_of_the_pixels() -> None:
    data = toy_data()
    chosen = kmeans_representatives(pixel_features(data), data.class_index, 3)[0]
    pixels = started("kmeans", ipc=3, data=data)
    assert torch.equal(pixels.images, data.batch(chosen)) and torch.equal(pixels.pairs, chosen)
    some = started("kmeans", ipc=3, data=data, classes=[0, 2], labels="learned")
    assert torch.equal(some.pairs, chosen[[0, 1, 2, 6, 7, 8]])


def test_noise_start_is_standard_normal() -> None:
    values = started("noise", ipc=50, data=toy_data(shape=(3, 16, 16))).images.detach()
    assert abs(values.mean().item()) < 4 / len(values.flatten()) ** 0.5
    assert abs(values.std().item() - 1) < 4 / (2 * len(values.flatten())) ** 0.5


def test_mean_start_is_the_class_mean_and_differs_inside_a_class() -> None:
    data = toy_data()
    means = torch.stack([data.batch(index).mean(0) for index in data.class_index])
    torch.testing.assert_close(class_means(data), means)
    torch.testing.assert_close(started("mean", ipc=1, data=data).images.detach(), means)
    several = started("mean", ipc=40, data=data).images.detach().view(3, 40, *data.shape)
    residual = several - means[:, None]
    assert abs(residual.std().item() - 0.1) < 0.005
    assert not torch.equal(several[0, 0], several[0, 1])


def test_chunked_class_means_equal_the_plain_ones() -> None:
    torch.testing.assert_close(class_means(toy_data(), chunk=2), class_means(toy_data()))


def test_start_follows_the_generator() -> None:
    for how in ("real", "noise", "mean"):
        assert torch.equal(started(how, seed=1).images, started(how, seed=1).images)
        assert not torch.equal(started(how, seed=1).images, started(how, seed=2).images)


@pytest.mark.parametrize(("labels", "numbers", "size"), [("hard", 1, 8), ("soft", 3, 12), ("learned", 3, 12)])
def test_budget_counts_pixels_and_labels(labels: str, numbers: int, size: int) -> None:
    budget = started("noise", ipc=2, labels=labels).budget()
    assert budget.as_dict() == {
        "images": 6,
        "decoded_images": 6,
        "floats": 6 * 64 + 6 * numbers,
        "bytes": 4 * 6 * 64 + 6 * size,
    }


def test_stored_tensors_decode_to_the_same_images_and_targets() -> None:
    pixels = started("noise", labels="soft")
    images, targets = decode("pixels", pixels.stored(), pixels.options())
    assert torch.equal(images, pixels.images) and torch.equal(targets, pixels()[1])


def test_artifact_does_not_change_with_later_steps() -> None:
    data = toy_data()
    pixels = started("noise", data=data)
    artifact = pixels.materialise(data.preprocessing, data.class_names, {"method": "test"})
    before = artifact.images.clone()
    with torch.no_grad():
        pixels.images.add_(1.0)
    assert torch.equal(artifact.images, before)
    assert artifact.label_kind == "hard" and artifact.metadata["method"] == "test"


def test_learned_labels_are_a_group_of_their_own() -> None:
    assert list(started("noise").parameter_groups()) == ["images"]
    groups = started("noise", labels="learned").parameter_groups()
    assert {name: [p.shape for p in group] for name, group in groups.items()} == {
        "images": [(6, 1, 8, 8)],
        "labels": [(6, 3)],
    }


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match="ipc=10 is larger than class 'class-0', which has 9 images"):
        started("real", ipc=10)
    with pytest.raises(DataError, match="ipc=10 is larger than class 'class-0', which has 9 images"):
        started("kmeans", ipc=10)
    with pytest.raises(ConfigError, match="did you mean 'real'"):
        started("reel")
    with pytest.raises(ConfigError, match="do not fit a synthesizer"):
        Pixels(4, 1, (1, 8, 8)).initialise(toy_data(), "noise", torch.Generator())
    with pytest.raises(ConfigError, match="at least 2 classes"):
        Pixels(1, 1, (1, 8, 8))
    with pytest.raises(ConfigError, match="ipc=0"):
        Pixels(2, 0, (1, 8, 8))
