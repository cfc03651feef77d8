"""How herding picks real images whose mean stays closest to the class mean."""

from __future__ import annotations

from collections.abc import Sequence

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

#: From a 32nd of a class on, the products of all its images with each other are computed once, if they take few bytes
#: (5,000 images of 3x32x32, 900 picks, one thread: 2.0 s instead of 6.4).
PICKS_WORTH_PRODUCTS, _MOST_BYTES = 32, 2**29


def herding_indices(
    features: Tensor,
    class_index: Sequence[Tensor],
    n: int,
    *,
    normalise: bool = False,
    chunk_bytes: int = 2**27,
    progress: Progress = nothing,
) -> Tensor:
    """Select ``n`` images of every class by herding (Welling 2009; Rebuffi et al. 2017, iCaRL).

    With the class mean mu and the sum s_k of the first k picks, the next pick is

        argmin over i not selected of | (k + 1) mu - s_k - f_i |

    computed on centred features g_i = f_i - mu with the residual r = -(g of all picks), as the argmin of
    |g_i|² - 2 <r, g_i>: one matrix-vector product a pick, or a row of the products of all images, computed once, where
    many are picked. Ties go to the lowest index. Deterministic; the selection for a smaller n is a prefix, class by
    class.

    Args:
        features: (N, D) floating features of all N training images, such as :func:`network_features`.
        class_index: for each of K classes its (n_c,) int64 image indices.
        n: images per class.
        normalise: scale the features of each image to norm 1 first, as iCaRL does.
        chunk_bytes: memory for the float64 features of the classes that are processed together.
        progress: called with the numbers of classes done and in total.

    Returns:
        (K·n,) int64 dataset indices on the CPU, class by class, in selection order.

    Raises:
        ConfigError: n below 1 or larger than a class.
        DataError: a class without images, features that are not finite or do not match the dataset.
    """
    check_counts(class_index, n)
    features = check_features(features, class_index)
    chunks = centred_classes(features, class_index, normalise, chunk_bytes)
    return torch.cat([_herd(*chunk, n).flatten() for chunk in reported(chunks, len(class_index), progress)]).cpu()


def _herd(centred: Tensor, valid: Tensor, index: Tensor, n: int) -> Tensor:
    """Herd K' classes at once: (K', L, D) features, (K', L) validity and dataset index; returns (K', n)."""
    squares, length = centred.square().sum(dim=2), centred.shape[1]
    largest = squares.amax(dim=1)
    available = valid.clone()
    residual, along = torch.zeros_like(centred[:, 0]), torch.zeros_like(squares)
    many = n > length // PICKS_WORTH_PRODUCTS and squares.numel() * length * 8 <= _MOST_BYTES
    products = torch.bmm(centred, centred.transpose(1, 2)) if many else None
    picks = []
    for _ in range(n):
        scores = squares - 2 * along
        scale = largest + largest.sqrt() * residual.norm(dim=1)
        pick = first_smallest(scores.masked_fill(~available, torch.inf), TIE_TOLERANCE * scale)[:, None]
        available.scatter_(1, pick, False)
        residual -= torch.take_along_dim(centred, pick[:, :, None], dim=1).squeeze(1)
        if products is None:
            along = torch.bmm(centred, residual[:, :, None]).squeeze(2)
        else:
            along -= torch.take_along_dim(products, pick[:, :, None], dim=1).squeeze(1)
        picks.append(pick)
    return index.gather(1, torch.cat(picks, dim=1))
