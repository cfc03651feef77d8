"""How k-means picks real images: one for every cluster of a class, with the cluster's share of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ddkit.data.coresets.selection import (
    TIE_TOLERANCE,
    Progress,
    centred_classes,
    check_counts,
    check_features,
    first_smallest,
    nothing,
    reported,
)

#: Rounds of Lloyd's algorithm at most; a class of some thousand images takes 10 to 60.
_ROUNDS = 100
#: Multiples of it, modulo 1, fill [0, 1] evenly: they stand for the random numbers of k-means++.
_GOLDEN = (math.sqrt(5) - 1) / 2


def kmeans_representatives(
    features: Tensor,
    class_index: Sequence[Tensor],
    n: int,
    *,
    normalise: bool = False,
    progress: Progress = nothing,
) -> tuple[Tensor, Tensor]:
    r"""Cluster every class by k-means and return the image nearest to each centre (DREAM, Liu et al. 2023, ICCV).

    .. math:: m_q = \frac{1}{N_q} \sum_{i \in Q_q} f_i, \qquad r_q = \arg\min_{i \in Q_q} |f_i - m_q|, \qquad w_q =
        N_q / N_c

    Stratified sampling with one image per stratum: :math:`\sum_q w_q m_q` is exactly the class mean. The image is
    taken from its own cluster, where the paper looks through the class: images are distinct that way, and each stands
    for the cluster whose weight it has. A class of at most n images is taken whole, with equal weights.

    Lloyd's algorithm in float64 on centred features, from a k-means++ without random numbers: images in the order of
    their distance from the class mean, the golden ratio's multiples for the draws, and of 2 + log n candidates for a
    centre the one that leaves the least (on digits and MNIST as good as scikit-learn's random one). An empty cluster
    takes the image farthest from its centre. Ties, as in every cluster of two, go to the image nearer to the class
    mean, then to the lowest index: deterministic, and the file order of the images plays no part.

    Args:
        features: (N, D) floating features of all N training images, such as :func:`network_features`.
        class_index: for each of K classes its (n_c,) int64 image indices.
        n: clusters per class.
        normalise: scale the features of each image to norm 1 first.
        progress: called with the numbers of classes done and in total.

    Returns:
        dataset indices (M,) int64, class by class, ascending in each, and the share of its class that each stands for
        (M,) float64, which sum to 1 in every class; both on the CPU.

    Raises:
        ConfigError: n below 1.
        DataError: a class without images, features that are not finite or do not match the dataset.

    Example:
        >>> kmeans_representatives(torch.tensor([0.0, 1, 2, 10]), [torch.arange(4)], 2)
        (tensor([1, 3]), tensor([0.7500, 0.2500], dtype=torch.float64))
    """
    check_counts(class_index, n, whole=True)
    features = check_features(features, class_index)
    indices, weights = [], []
    chunks = centred_classes(features, class_index, normalise, chunk_bytes=1)  # one class at a time
    for centred, _, index in reported(chunks, len(class_index), progress):
        picks, shares = _representatives(centred[0], n)
        indices.append(index[0, picks].cpu())
        weights.append(shares.cpu())
    return torch.cat(indices), torch.cat(weights)


def _representatives(x: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return which rows of ``x`` (N, D) represent it, ascending, and the share of all rows that each stands for."""
    if n >= len(x):
        return torch.arange(len(x), device=x.device), x.new_full((len(x),), 1 / len(x))
    squares, order = x.square().sum(1).sort(stable=True)
    x = x[order]
    owner, centres = cluster(x, n)
    members = F.one_hot(owner, n).bool()
    distances = _distances(x, squares, centres).masked_fill(~members, torch.inf)
    nearest = first_smallest(distances.T, TIE_TOLERANCE * squares[-1:].expand(n))
    picks, clusters = order[nearest].sort()
    return picks, members.sum(0)[clusters].double() / len(x)


def cluster(x: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Run Lloyd's algorithm.

    Args:
        x: (N, D) float64, centred, in the order of their norms.
        n: clusters, at most N.

    Returns:
        cluster of every row (N,) int64, none of them empty, and the means of the clusters (n, D).
    """
    centres, owner = x[_start(x, n)], torch.full((len(x),), -1, device=x.device)
    squares = x.square().sum(1)
    tolerance = TIE_TOLERANCE * squares[-1:].expand(len(x))
    for _ in range(_ROUNDS):
        distances = _distances(x, squares, centres)
        before, owner = owner, _without_empty(first_smallest(distances, tolerance), distances, tolerance[:1])
        if torch.equal(before, owner):
            break
        share = F.one_hot(owner, n).double()
        centres = share.T @ x / share.sum(0)[:, None]
    return owner, centres


def _distances(x: Tensor, squares: Tensor, centres: Tensor) -> Tensor:
    """Return squared distances (N, n), given the ``squares`` of the rows; centring keeps the cancellation harmless."""
    return torch.addmm(squares[:, None] + centres.square().sum(1), x, centres.T, alpha=-2)


def _start(x: Tensor, n: int) -> Tensor:
    """Return the rows (n,) from which the centres start (k-means++, Arthur and Vassilvitskii 2007, greedy)."""
    squares, tries = x.square().sum(1), 2 + int(math.log(n))
    picks = torch.zeros(1, dtype=torch.int64, device=x.device)
    nearest = _distances(x, squares, x[picks])
    for number in range(n - 1):
        drawn = torch.arange(1, tries + 1, dtype=torch.float64) + number * tries
        mass = nearest[:, 0].clamp(min=0).cpu().cumsum(0)  # which a GPU sums in another order every time
        candidates = torch.searchsorted(mass, drawn * _GOLDEN % 1 * mass[-1]).clamp(max=len(x) - 1).to(x.device)
        left = torch.minimum(nearest, _distances(x, squares, x[candidates]))
        best = left.sum(0).argmin(keepdim=True)
        picks, nearest = torch.cat([picks, candidates[best]]), left[:, best]
    return picks


def _without_empty(owner: Tensor, distances: Tensor, tolerance: Tensor) -> Tensor:
    """Give every empty cluster the row farthest from its centre, out of a cluster that has others."""
    sizes = F.one_hot(owner, distances.shape[1]).sum(0)
    for empty in (sizes == 0).nonzero().flatten().tolist():
        far = distances.gather(1, owner[:, None])[:, 0].masked_fill(sizes[owner] == 1, -torch.inf)
        chosen = first_smallest(-far[None], tolerance)[0]
        sizes[owner[chosen]] -= 1
        owner[chosen], sizes[empty] = empty, 1
    return owner
