"""Do the coreset selections pick what their definitions say, in order, and refuse what they cannot use?"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ddkit.data.coresets import (
    by_pixels,
    herding,
    herding_indices,
    kcenter_indices,
    kmeans_representatives,
    pixel_features,
    random_indices,
)
from ddkit.errors import ConfigError, DataError, UnknownNameError
from ddkit.testing import toy_data

Select = Callable[..., Tensor]


def kmeans_indices(*arguments: object, **options: object) -> Tensor:
    return kmeans_representatives(*arguments, **options)[0]  # type: ignore[arg-type]


#: One image after the other, and all at once.
GREEDY = pytest.mark.parametrize("select", [herding_indices, kcenter_indices])
DETERMINISTIC = pytest.mark.parametrize("select", [herding_indices, kcenter_indices, kmeans_indices])
LINE = torch.tensor([0.0, 1, 2, 3, 10], dtype=torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def classes_of(labels: Tensor) -> tuple[Tensor, ...]:
    return tuple((labels == label).nonzero().flatten() for label in range(int(labels.max()) + 1))


def uneven(seed: int = 0) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return features of five classes of 12 to 60 images in shuffled file order, and their index."""
    labels = torch.arange(5).repeat_interleave(torch.tensor([12, 60, 33, 20, 47]))
    labels = labels[torch.randperm(len(labels), generator=generator(seed))]
    return gaussian(len(labels), 7, seed=seed) + labels[:, None], classes_of(labels)


def radius(points: Tensor, chosen: Tensor) -> float:
    return float(torch.cdist(points, points[chosen]).amin(1).max())


def test_herding_order_of_the_hand_case() -> None:
    assert herding_indices(LINE, (torch.arange(5),), 5).tolist() == [3, 2, 1, 4, 0]


def test_kcenter_order_of_the_hand_case() -> None:
    chosen = kcenter_indices(LINE, (torch.arange(5),), 3)
    assert chosen.tolist() == [3, 4, 0] and radius(LINE[:, None], chosen) == 1


@DETERMINISTIC
def test_identical_images_are_selected_once_each_from_the_first_and_warned_about(select: Select) -> None:
    with pytest.warns(UserWarning, match="class 0 have the same features"):
        assert select(torch.zeros(4), (torch.arange(4),), 3).tolist() == [0, 1, 2]
    rows = gaussian(1, 5).float().expand(9, 5)
    with pytest.warns(UserWarning):
        assert select(rows, (torch.arange(9),), 9).tolist() == list(range(9))


@DETERMINISTIC
def test_duplicated_images_tie_to_the_lowest_index(select: Select) -> None:
    points = gaussian(37, 11).float()
    twice = torch.cat([points, points])
    chosen = select(twice, (torch.arange(74),), 1)
    assert int(chosen[0]) < 37
    shuffled_index = (torch.randperm(74, generator=generator()),)
    assert torch.equal(select(twice, shuffled_index, 5), select(twice, (torch.arange(74),), 5))


def test_herding_equals_its_definition() -> None:
    features, classes = uneven()
    picked = herding_indices(features, classes, 12).view(5, 12)
    for index, order in zip(classes, picked, strict=True):
        mean, total, left = features[index].mean(0), torch.zeros(7, dtype=torch.float64), index.tolist()
        for k, pick in enumerate(order.tolist()):
            best = min(left, key=lambda i: float(((k + 1) * mean - total - features[i]).norm()))
            assert pick == best
            total, left = total + features[best], [i for i in left if i != best]


def test_kcenter_equals_its_definition() -> None:
    features, classes = uneven()
    picked = kcenter_indices(features, classes, 8).view(5, 8)
    for index, order in zip(classes, picked, strict=True):
        points = features[index]
        expected = [int((points - points.mean(0)).norm(dim=1).argmin())]
        while len(expected) < 8:
            expected.append(int(torch.cdist(points, points[expected]).amin(1).argmax()))
        assert order.tolist() == index[expected].tolist()


def test_kcenter_radius_is_within_twice_the_optimum_and_never_grows() -> None:
    subsets = list(itertools.combinations(range(9), 3))
    for seed in range(200):
        points = torch.rand(9, 2, generator=generator(seed), dtype=torch.float64)
        order = kcenter_indices(points, (torch.arange(9),), 9)
        radii = [radius(points, order[:n]) for n in range(1, 10)]
        assert all(later <= earlier for earlier, later in itertools.pairwise(radii)) and radii[-1] == 0
        assert radii[2] <= 2 * min(radius(points, torch.tensor(subset)) for subset in subsets)


def test_kcenter_random_start_is_any_image_and_keeps_the_guarantee() -> None:
    points = torch.rand(9, 2, generator=generator(), dtype=torch.float64)
    best = min(radius(points, torch.tensor(subset)) for subset in itertools.combinations(range(9), 3))
    orders = [kcenter_indices(points, (torch.arange(9),), 3, "random", generator(seed)) for seed in range(80)]
    assert {int(order[0]) for order in orders} == set(range(9))
    assert all(len(set(order.tolist())) == 3 and radius(points, order) <= 2 * best for order in orders)
    assert torch.equal(orders[7], kcenter_indices(points, (torch.arange(9),), 3, "random", generator(7)))


@DETERMINISTIC
def test_selecting_everything_gives_every_image_once(select: Select) -> None:
    index = torch.arange(40)
    assert sorted(select(gaussian(40, 3), (index,), 40).tolist()) == index.tolist()


def test_herding_mean_is_closer_than_that_of_random_subsets() -> None:
    features = gaussian(400, 16)
    chosen = herding_indices(features, (torch.arange(400),), 50)
    error = (features[chosen].mean(0) - features.mean(0)).norm()
    stream = generator(1)
    subsets = torch.stack([torch.randperm(400, generator=stream)[:50] for _ in range(1000)])
    others = (features[subsets].mean(1) - features.mean(0)).norm(dim=1)
    assert float((error < others).double().mean()) >= 0.95


@DETERMINISTIC
def test_shift_rotation_and_scale_leave_the_selection_unchanged(select: Select) -> None:
    features, classes = uneven()
    expected = select(features, classes, 10)
    rotation = torch.linalg.qr(gaussian(7, 7, seed=3)).Q
    for changed in (features + 17.25, features @ rotation, features * 1e3, features * 1e-3):
        assert torch.equal(select(changed, classes, 10), expected)


@DETERMINISTIC
def test_large_mean_in_float32_does_not_change_the_selection(select: Select) -> None:
    features, classes = uneven()
    # Multiples of 1/256 stay exact in float32 after adding 10000; only cancellation could change the picks.
    features = (features * 256).round().div(256).float()
    shifted = features + 1e4
    assert torch.equal(shifted - 1e4, features)
    assert torch.equal(select(shifted, classes, 12), select(features, classes, 12))


@GREEDY
def test_smaller_selection_is_a_prefix(select: Select) -> None:
    features, classes = uneven()
    assert torch.equal(select(features, classes, 10).view(5, 10)[:, :5], select(features, classes, 5).view(5, 5))


@GREEDY
def test_chunked_equals_unchunked(select: Select) -> None:
    features, classes = uneven()
    expected = select(features, classes, 12)
    for chunk_bytes in (1, 8 * 7 * 120):
        assert torch.equal(select(features, classes, 12, chunk_bytes=chunk_bytes), expected)


def test_kcenter_random_start_does_not_depend_on_chunks() -> None:
    features, classes = uneven()
    whole = kcenter_indices(features, classes, 6, "random", generator(5))
    assert torch.equal(kcenter_indices(features, classes, 6, "random", generator(5), chunk_bytes=1), whole)


@DETERMINISTIC
def test_file_order_does_not_matter(select: Select) -> None:
    features, classes = uneven()
    labels = torch.empty(len(features), dtype=torch.int64)
    for label, index in enumerate(classes):
        labels[index] = label
    order = torch.randperm(len(features), generator=generator(9))
    permuted = select(features[order], classes_of(labels[order]), 12)
    groups = (order[permuted].view(5, 12), select(features, classes, 12).view(5, 12))
    if select is kmeans_indices:  # which says them in file order
        groups = tuple(group.sort(dim=1).values for group in groups)
    assert torch.equal(*groups)


@DETERMINISTIC
def test_normalising_ignores_the_length_of_the_features(select: Select) -> None:
    features, classes = uneven()
    lengths = torch.rand(len(features), 1, generator=generator(2), dtype=torch.float64) + 0.5
    expected = select(features, classes, 6, normalise=True)
    assert torch.equal(select(features * lengths, classes, 6, normalise=True), expected)
    assert not torch.equal(select(features * lengths, classes, 6), expected)


@DETERMINISTIC
def test_feature_maps_are_flattened_and_half_precision_is_accepted(select: Select) -> None:
    features, classes = uneven()
    maps = features[:, :6].unflatten(1, (1, 2, 3)).bfloat16()
    assert torch.equal(select(maps, classes, 4), select(maps.double().flatten(1), classes, 4))


def test_random_draws_every_image_equally_often_without_repeats() -> None:
    classes = (torch.arange(0, 20), torch.arange(20, 30))
    stream, draws, n = generator(), 2000, 5
    chosen = torch.stack([random_indices(classes, n, stream) for _ in range(draws)])
    assert bool((chosen[:, :n] < 20).all()) and bool((chosen[:, n:] >= 20).all())
    assert all(len(row.unique()) == 2 * n for row in chosen)
    frequency = chosen.flatten().bincount(minlength=30) / draws
    expected = torch.tensor([n / 20] * 20 + [n / 10] * 10)
    assert bool(((frequency - expected).abs() <= 4 * (expected * (1 - expected) / draws).sqrt()).all())


def test_random_is_repeatable_and_nested() -> None:
    classes = (torch.arange(0, 20), torch.arange(20, 30))
    ten = random_indices(classes, 10, generator(3)).view(2, 10)
    assert torch.equal(ten, random_indices(classes, 10, generator(3)).view(2, 10))
    assert torch.equal(ten[:, :5], random_indices(classes, 5, generator(3)).view(2, 5))
    assert not torch.equal(ten, random_indices(classes, 10, generator(4)).view(2, 10))


def test_global_random_state_is_untouched() -> None:
    before = torch.get_rng_state()
    random_indices((torch.arange(9),), 3, generator())
    kcenter_indices(gaussian(9, 2), (torch.arange(9),), 3, "random", generator())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("n", [0, -1, 2.0, True])
def test_number_per_class_must_be_a_positive_integer(n: object) -> None:
    classes = (torch.arange(5),)
    with pytest.raises(ConfigError, match="at least 1"):
        random_indices(classes, n, generator())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least 1"):
        herding_indices(LINE, classes, n)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least 1"):
        kcenter_indices(LINE, classes, n)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least 1"):
        kmeans_indices(LINE, classes, n)


def test_more_than_the_smallest_class_names_it_and_its_size() -> None:
    classes = (torch.arange(0, 3), torch.arange(3, 5))
    for call in (
        lambda: random_indices(classes, 3, generator()),
        lambda: herding_indices(LINE, classes, 3),
        lambda: kcenter_indices(LINE, classes, 3),
    ):
        with pytest.raises(ConfigError, match="class 1 has: choose 2 at most"):
            call()


def test_class_without_images_and_no_class_are_refused() -> None:
    with pytest.raises(DataError, match="class 1 has no images"):
        random_indices((torch.arange(5), torch.arange(0)), 1, generator())
    with pytest.raises(DataError, match="no classes"):
        random_indices((), 1, generator())


@DETERMINISTIC
def test_features_that_cannot_be_compared_are_refused(select: Select) -> None:
    classes = (torch.arange(5),)
    for bad in (float("nan"), float("inf")):
        features = LINE.clone()
        features[2] = bad
        with pytest.raises(DataError, match="image 2 are NaN or infinite"):
            select(features, classes, 1)
    for wrong in (LINE[:4], torch.cat([LINE, LINE])):
        with pytest.raises(DataError, match="rows but the dataset has 5 images"):
            select(wrong, classes, 1)
    with pytest.raises(DataError, match="rows but the dataset"):
        select(LINE, (torch.arange(5) + 1,), 1)
    with pytest.raises(DataError, match="floating"):
        select(LINE.long(), classes, 1)


def test_kcenter_start_is_checked() -> None:
    classes = (torch.arange(5),)
    with pytest.raises(UnknownNameError, match="did you mean 'mean'"):
        kcenter_indices(LINE, classes, 1, "maen")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"pass a torch\.Generator"):
        kcenter_indices(LINE, classes, 1, "random")


@DETERMINISTIC
def test_single_image_classes_do_not_warn(select: Select) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert select(LINE[:2], (torch.tensor([1]), torch.tensor([0])), 1).tolist() == [1, 0]


@pytest.mark.parametrize("n", [1, 3, 20, 200])
def test_products_of_all_images_pick_what_products_with_the_residual_pick(
    n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Classes of several sizes, so that some are padded."""
    features, members = gaussian(700, 12), torch.arange(700).split([200, 300, 200])
    monkeypatch.setattr(herding, "PICKS_WORTH_PRODUCTS", 1000)  # always worth it
    once = herding_indices(features, members, n)
    monkeypatch.setattr(herding, "_MOST_BYTES", 0)
    assert torch.equal(once, herding_indices(features, members, n))


def test_the_herded_order_of_a_dataset_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = toy_data(counts=(40, 9, 30)), []
    whole = [herding_indices(pixel_features(real), real.class_index, n).view(3, n) for n in (2, 9)]

    def watched(features: Tensor, *given: object) -> Tensor:
        asked.append(len(features))
        return herding_indices(features, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(by_pixels, "herding_indices", watched)
    assert torch.equal(by_pixels.herded(real, {0: 2, 1: 2, 2: 2}), whole[0].flatten())
    assert torch.equal(by_pixels.herded(real, {2: 9, 0: 1, 1: 0}), torch.cat([whole[1][2], whole[1][0, :1]]))
    assert by_pixels.herded(real, {0: 40, 2: 12}).unique().numel() == 52
    counted = len(asked)
    assert torch.equal(by_pixels.herded(real, {1: 9, 2: 9}), whole[1][1:].flatten()) and len(asked) == counted
    with pytest.raises(ConfigError, match="10 images per class"):
        by_pixels.herded(real, {1: 10})
