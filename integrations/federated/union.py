"""How does the server train on what its clients sent: on whose images, with which weights?"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddkit.artifact import DistilledDataset
from ddkit.integrations.federated.wire import ClientSet
from ddkit.parts import union

Weighting = Literal["counts", "equal"]

#: Largest importance of an image, as a multiple of the median: what a client can gain by claiming many images.
MOST_IMPORTANCE = 10.0


def in_order(sets: Mapping[int, ClientSet]) -> list[int]:
    """Return the clients in an order that depends on what they sent alone, not on node numbers or arrival."""

    def digest(node: int) -> bytes:
        distilled = sets[node].distilled
        state = hashlib.sha256(distilled.images.numpy().tobytes())
        state.update(distilled.labels.numpy().tobytes())
        return state.digest()

    return sorted(sets, key=digest)


def joined(sets: Sequence[ClientSet], weighting: Weighting) -> tuple[DistilledDataset, Tensor | None]:
    r"""Return the union of all sets and the importance of each image.

    With ``counts`` the images of client k and class c share the weight of its real images (FedDM, Xiong et al. 2023),

    .. math:: a_i \propto \frac{n_{k,c}}{|S_{k,c}|}

    cut at ``MOST_IMPORTANCE`` times the median over images, then scaled to mean 1. While most images come from honest
    clients, nobody who claims any number of images outweighs that many of them (a cut relative to the mean bounds
    nothing, as the claim moves the mean).

    Returns:
        the union (N images) and the importance (N,), or None for equal ones.
    """
    whole = union([one.distilled for one in sets])
    if weighting == "equal":
        return whole, None
    parts = []
    for one in sets:
        labels = one.distilled.hard_labels()
        counts = torch.tensor(one.counts, dtype=torch.float64)
        sent = torch.bincount(labels, minlength=len(counts))
        parts.append(counts[labels] / sent[labels])
    importance = torch.cat(parts)
    importance = importance.clamp(max=MOST_IMPORTANCE * float(importance.median()))
    return whole, (importance / importance.mean()).float()


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
