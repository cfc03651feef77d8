"""How greedy k-center picks real images that cover a class with balls of the smallest radius."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
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
from ddkit.errors import ConfigError, unknown_name

STARTS = ("mean", "random")


def kcenter_indices(
    features: Tensor,
    class_index: Sequence[Tensor],
    n: int,
    start: Literal["mean", "random"] = "mean",
    generator: torch.Generator | None = None,
    *,
    normalise: bool = False,
    chunk_bytes: int = 2**27,
    progress: Progress = nothing,
) -> Tensor:
    """Select ``n`` images of every class by farthest-first traversal (Gonzalez 1985; Sener & Savarese 2018).

    Minimises the covering radius max_i min_{j selected} |f_i - f_j| greedily: after the first centre, the
    next pick is always the image farthest from its nearest centre. The radius is at most twice the optimum.
    Ties go to the lowest index; the selection for a smaller n is a prefix, class by class.

    Arguments, result and errors are those of :func:`~ddkit.data.coresets.herding.herding_indices`, and

    Args:
        start: the first centre: the image nearest the class ``mean``, or a ``random`` one.
        generator: on the CPU, for ``random``.

    Raises:
        ConfigError: an unknown start, or a random start without a generator.
    """
    check_counts(class_index, n)
    if start not in STARTS:
        raise unknown_name("start of k-center", start, STARTS)
    if start == "random" and generator is None:
        raise ConfigError("k-center that starts at random draws the first centre: pass a torch.Generator")
    features = check_features(features, class_index)
    picks = []
    chunks = centred_classes(features, class_index, normalise, chunk_bytes)
    for chunk in reported(chunks, len(class_index), progress):
        picks.append(_cover(*chunk, n, generator if start == "random" else None).flatten())
    return torch.cat(picks).cpu()


def _cover(centred: Tensor, valid: Tensor, index: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    """Cover K' classes at once: (K', L, D) features, (K', L) validity and dataset index; returns (K', n).

    Squared distances come from norms and one matrix-vector product a pick; centring keeps their cancellation
    harmless and the tie tolerance, relative to the largest norm, absorbs what is left of it.
    """
    squares = centred.square().sum(dim=2)
    tolerance = TIE_TOLERANCE * squares.amax(dim=1)
    available = valid.clone()
    if generator is None:
        pick = first_smallest(squares.masked_fill(~available, torch.inf), tolerance)[:, None]
    else:
        sizes = valid.sum(dim=1).tolist()
        drawn = [int(torch.randint(size, (1,), generator=generator)) for size in sizes]
        pick = torch.tensor(drawn, device=centred.device)[:, None]
    nearest = torch.full_like(squares, torch.inf)
    picks = [pick]
    for _ in range(n - 1):
        available.scatter_(1, pick, False)
        centre = torch.take_along_dim(centred, pick[:, :, None], dim=1)
        products = torch.bmm(centred, centre.transpose(1, 2)).squeeze(2)
        nearest = torch.minimum(nearest, squares + squares.gather(1, pick) - 2 * products)
        pick = first_smallest((-nearest).masked_fill(~available, torch.inf), tolerance)[:, None]
        picks.append(pick)
    return index.gather(1, torch.cat(picks, dim=1))
