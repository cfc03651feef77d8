"""How much of the training may one client decide, whatever it claims to have?"""

from __future__ import annotations

from torch import Tensor


def largest_share(clients: int) -> float:
    r"""Return the share of all weight that one of ``clients`` has at most.

    Nobody weighs more than twice what the others weigh on average, :math:`s \le 2 (1 - s) / (N - 1)`, so that
    :math:`s \le 2 / (N + 1)`: f clients that lie together decide at most :math:`2 f / (N + 1)`. Of two clients nobody
    can tell which one lies: each has half.
    """
    return 1.0 if clients < 2 else min(0.5, 2 / (clients + 1))


def bounded(claims: Tensor) -> Tensor:
    """Cut claims at one level, so that none is more than :func:`largest_share` of what is left of all of them.

    The bound is on the share and not on the claim: a multiple of a mean moves with what a liar claims, and a multiple
    of the median lets one client outweigh the others where honest ones differ as much as Dirichlet shares do.

    Args:
        claims: (N,) positive weights, float64.

    Returns:
        (N,); claims below the level, and all of them where none is too large, come back as they are.
    """
    share = largest_share(len(claims))
    ordered = claims.sort(descending=True).values
    for above in range(len(claims)):
        # The largest ``above`` claims have exactly the share each, the others are whole.
        level = float(share * ordered[above:].sum() / (1 - above * share)) if above * share < 1 else float(ordered[0])
        if float(ordered[above]) <= level:
            break
    return claims.clamp(max=level)
