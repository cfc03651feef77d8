"""Does k-means cluster as Lloyd says, and does what represents a class stand for all of it?"""

from __future__ import annotations

import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from ddkit import data
from ddkit.data.coresets import herding_indices, kmeans_representatives, pixel_features
from ddkit.data.coresets.kmeans import _start, cluster


def rows(count: int, width: int = 6, seed: int = 0) -> Tensor:
    """Return centred points around a few middles, in the order of their norms."""
    generator = torch.Generator().manual_seed(seed)
    middles = 4 * torch.randn(5, width, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, width, generator=generator, dtype=torch.float64)
    points = middles[torch.randint(5, (count,), generator=generator)] + noise
    points -= points.mean(0)
    return points[points.square().sum(1).argsort()]


@pytest.mark.parametrize("n", [2, 5, 17])
def test_clusters_are_those_of_scikit_learn_from_the_same_start(n: int) -> None:
    x = rows(120)
    owner, centres = cluster(x, n)
    theirs = KMeans(n, init=x[_start(x, n)].numpy(), n_init=1, tol=0, max_iter=100).fit(x.numpy())
    assert owner.tolist() == theirs.labels_.tolist()
    assert (centres - torch.from_numpy(theirs.cluster_centers_)).abs().max() < 1e-12


@pytest.mark.parametrize("n", [3, 16])
def test_the_start_is_as_good_as_a_random_one(n: int) -> None:
    train = data.load_pair("digits")[0]
    x = pixel_features(train)[train.class_index[5]].double()
    x -= x.mean(0)
    x = x[x.square().sum(1).argsort()]
    owner, centres = cluster(x, n)
    mine = float((x - centres[owner]).square().sum())
    others = [KMeans(n, n_init=1, random_state=seed).fit(x.numpy()).inertia_ for seed in range(9)]
    assert mine <= sorted(others)[4] * 1.02


@pytest.mark.parametrize("n", [1, 4, 30])
def test_the_weighted_sum_of_centres_is_the_class_mean(n: int) -> None:
    x = rows(73)
    index, weights = kmeans_representatives(x + 3, [torch.arange(73)], n)
    owner, centres = cluster(x, n)
    shares = owner.bincount(minlength=n).double() / 73
    assert (shares @ centres).norm() < 1e-13
    assert weights.sum().item() == pytest.approx(1, abs=1e-15)
    assert sorted(owner[index].tolist()) == list(range(n))
    for image, weight in zip(index.tolist(), weights.tolist(), strict=True):
        others = (x[owner == owner[image]] - centres[owner[image]]).norm(dim=1)
        assert (x[image] - centres[owner[image]]).norm() <= others.min() + 1e-12
        assert weight == pytest.approx(float(shares[owner[image]]))


def test_one_cluster_is_herdings_first_image_and_all_images_are_the_class_in_its_order() -> None:
    x, classes = rows(60), [torch.arange(0, 60, 2), torch.arange(1, 60, 2)]
    assert torch.equal(kmeans_representatives(x, classes, 1)[0], herding_indices(x, classes, 1))
    index, weights = kmeans_representatives(x, classes, 30)
    assert index.tolist() == torch.cat(classes).tolist() and weights.tolist() == [1 / 30] * 60


def test_a_class_of_fewer_images_is_taken_whole() -> None:
    index, weights = kmeans_representatives(rows(25), [torch.arange(5), torch.arange(5, 25)], 8)
    assert index[:5].tolist() == [0, 1, 2, 3, 4] and weights[:5].tolist() == [0.2] * 5
    assert len(index) == len(weights) == 13 and weights[5:].sum().item() == pytest.approx(1)


def test_rolling_the_file_gives_the_same_images() -> None:
    x, labels = rows(90), torch.arange(90) % 3
    chosen = []
    for shift in (0, 1, 41):
        rolled = labels.roll(shift)
        classes = [(rolled == label).nonzero().flatten() for label in range(3)]
        index, weights = kmeans_representatives(x.roll(shift, 0), classes, 7)
        chosen.append(dict(zip(((index - shift) % 90).tolist(), weights.tolist(), strict=True)))
    assert chosen[0] == chosen[1] == chosen[2] and len(chosen[0]) == 21


def test_an_empty_cluster_takes_the_farthest_image_and_images_stay_distinct() -> None:
    """Three different points, six clusters: k-means++ starts several centres at one of them."""
    x = torch.tensor([0.0, 0, 0, 0, 0, 6, 6, 6, -9], dtype=torch.float64)
    index, weights = kmeans_representatives(x, [torch.arange(9)], 6)
    assert len(set(index.tolist())) == 6 and set(x[index].tolist()) == {0.0, 6.0, -9.0}
    assert weights.sum().item() == pytest.approx(1) and float(weights.min()) >= 1 / 9 - 1e-15


def test_an_outlier_weighs_what_it_is() -> None:
    x = torch.cat([rows(99), torch.full((1, 6), 100.0, dtype=torch.float64)])
    index, weights = kmeans_representatives(x, [torch.arange(100)], 8)
    assert int(index[-1]) == 99 and weights[-1].item() == pytest.approx(0.01)
