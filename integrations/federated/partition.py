"""How is a data set divided among clients whose classes differ?"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ddkit.base.ranges import Count, Rate, in_range
from ddkit.base.streams import Streams
from ddkit.data.real import RealData
from ddkit.errors import DataError

#: Draws after which a partition without enough images for every client is given up.
TRIES = 100


@in_range("")
def dirichlet_partition(real: RealData, clients: Count, alpha: Rate, seed: int, min_size: int = 10) -> list[Tensor]:
    r"""Divide each class among clients in shares drawn from a symmetric Dirichlet distribution (Hsu et al. 2019).

    .. math:: (p_{1,c}, \dots, p_{M,c}) \sim \mathrm{Dir}(\alpha, \dots, \alpha) \quad \text{for every class } c

    A small :math:`\alpha` leaves most clients without most classes. All shares are drawn anew until every client has
    ``min_size`` images.

    Args:
        real: what is divided.
        clients: M.
        alpha: concentration.
        seed: of the draw; the same partition on every machine.
        min_size: images that every client gets at least.

    Returns:
        M tensors of ascending int64 indices, disjoint and together all images.

    Raises:
        ConfigError: fewer than one client, or an alpha that is not positive.
        DataError: no draw gives every client ``min_size`` images.
    """
    streams = Streams(seed)
    generator = np.random.Generator(np.random.PCG64(streams.integer("dirichlet")))
    orders = [index[torch.randperm(len(index), generator=streams("order"))] for index in real.class_index]
    for _ in range(TRIES):
        owned: list[list[Tensor]] = [[] for _ in range(clients)]
        for order in orders:
            shares = generator.dirichlet([alpha] * clients)
            cuts = np.floor(np.cumsum(shares)[:-1] * len(order)).astype(int).tolist()
            for parts, part in zip(owned, np.split(order.numpy(), cuts), strict=True):
                parts.append(torch.from_numpy(part))
        indices = [torch.cat(parts).sort().values for parts in owned]
        if min(len(index) for index in indices) >= min_size:
            return indices
    raise DataError(
        f"{TRIES} draws with alpha={alpha} left a client with fewer than {min_size} images: use fewer clients, a "
        f"larger alpha or a smaller min_size"
    )
