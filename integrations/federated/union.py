"""How does the server train on what its clients sent: on whose images, with which weights?"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.distilled.parts import union
from ddkit.integrations.federated.shares import bounded
from ddkit.integrations.federated.wire import ClientSet

Weighting = Literal["counts", "equal"]

#: Largest importance of an image, as a multiple of the median: what a client can gain in one class by its claims.
MOST_IMPORTANCE = 10.0


def in_order(sets: Mapping[int, ClientSet]) -> list[int]:
    """Return the clients in an order that depends on what they sent alone, not on node numbers or arrival."""

    def digest(node: int) -> bytes:
        distilled = sets[node].distilled
        state = hashlib.sha256(distilled.images.numpy().tobytes())
        state.update(distilled.labels.numpy().tobytes())
        return state.digest()

    return sorted(sets, key=digest)


@dataclass(frozen=True)
class Union:
    """What the server trains on.

    Args:
        images: of all sets, N.
        importance: (N,) with mean 1; None for equal ones.
        shares: of the weight, one per set.
        claimed: shares as the clients would have them, one per set.
    """

    images: DistilledDataset
    importance: Tensor | None
    shares: tuple[float, ...]
    claimed: tuple[float, ...]


def joined(sets: Sequence[ClientSet], weighting: Weighting) -> Union:
    r"""Return the union of all sets and the importance of each image.

    With ``counts`` the images of client k and class c share the weight of its real images (FedDM, Xiong et al. 2023),

    .. math:: a_i \propto \frac{n_{k,c}}{|S_{k,c}|}

    cut at ``MOST_IMPORTANCE`` times the median over images; with ``equal`` all are 1. Either way a client that would
    have more than :func:`~ddkit.integrations.federated.shares.largest_share` of the sum, by the number of images that
    it claims or that it sends, gets that much: all its images lose the same factor. Then the mean is scaled to 1.
    """
    whole = union([one.distilled for one in sets])
    owner = torch.cat([torch.full((len(one.distilled),), place) for place, one in enumerate(sets)])
    wanted = _by_counts(sets) if weighting == "counts" else torch.ones(len(whole), dtype=torch.float64)
    importance = wanted.clamp(max=MOST_IMPORTANCE * float(wanted.median()))
    totals = _totals(importance, owner)
    allowed = bounded(totals)
    importance = importance * (allowed / totals)[owner]
    equal = weighting == "equal" and torch.equal(allowed, totals)
    return Union(
        whole,
        None if equal else (importance / importance.mean()).float(),
        tuple((allowed / allowed.sum()).tolist()),
        tuple((_totals(wanted, owner) / wanted.sum()).tolist()),
    )


def _by_counts(sets: Sequence[ClientSet]) -> Tensor:
    """Return the real images that each image stands for, (N,)."""
    parts = []
    for one in sets:
        labels = one.distilled.hard_labels()
        counts = torch.tensor(one.counts, dtype=torch.float64)
        parts.append(counts[labels] / torch.bincount(labels, minlength=len(counts))[labels])
    return torch.cat(parts)


def _totals(values: Tensor, owner: Tensor) -> Tensor:
    """Return the sums of ``values`` by owner."""
    return torch.zeros(int(owner.max()) + 1, dtype=values.dtype).index_add_(0, owner, values)


def gradient_cosines(module: nn.Module, sets: Sequence[ClientSet]) -> list[float]:
    """Return how each set's loss gradient points along the coordinate-wise median of all of them.

    Args:
        module: where the gradients are taken; evaluated as it is.
        sets: of the clients.

    Returns:
        one cosine per set, in [-1, 1].
    """
    gradients = []
    for one in sets:
        images, labels = one.distilled.tensors()
        loss = F.cross_entropy(module(images), labels)
        parts = torch.autograd.grad(loss, list(module.parameters()))
        gradients.append(torch.cat([part.flatten() for part in parts]))
    stacked = torch.stack(gradients)
    median = stacked.median(dim=0).values
    return F.cosine_similarity(stacked, median[None], dim=1).tolist()
