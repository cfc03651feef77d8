"""Which clients' labels contradict what everybody else's images show: flipped labels, or images of something else?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from ddkit.integrations.federated.wire import ClientSet

#: Chance that an honest client disagrees as much, below which it is a suspect.
LEVEL = 0.01
#: Agreement that is expected of an honest client at most, however well the others agree.
MOST_AGREEMENT = 0.95
#: Agreement of the others from which on a single class can tell against a client.
RELIABLE = 0.9
#: Stands for a distance of 0, so that its logarithm is finite.
_TINY = 1e-12


@dataclass(frozen=True)
class _Judged:
    """How the classes of one client look to the others.

    Args:
        margins: (K,) log of the distance to the nearest other class over that to its own; NaN for a class that the
            client or all others lack.
        alike: (K,) the nearest other class.
    """

    margins: Tensor
    alike: Tensor

    @property
    def known(self) -> Tensor:
        """Margins of the classes that can be judged."""
        return self.margins[self.margins.isfinite()]

    @property
    def agreeing(self) -> int:
        """Classes that look like themselves."""
        return int((self.known > 0).sum())


def find_suspects(sets: Sequence[ClientSet]) -> dict[int, str]:
    r"""Return why the labels of some sets are not to be believed, by their place in ``sets``.

    The images of a class look to the other clients like the class whose centre is nearest to their mean: the distance
    to a class is the median over the clients that have it, so that a minority of liars does not move it. Only classes
    that others have as well are judged: a client with classes of its own is no suspect.

    With x of n classes agreeing and a share p of the other clients' classes, at most ``MOST_AGREEMENT``, a client is a
    suspect where fewer than half of its classes agree and

    .. math:: P(X \le x) < \alpha, \qquad X \sim \mathrm{Binomial}(n, p).

    It is one as well where a single class looks more clearly like another than the median class looks like itself,
    provided that ``RELIABLE`` of the others' classes agree. Where the others do not agree among themselves nobody is a
    suspect. The worst suspect is set aside and the others are judged again, up to a minority of the clients.
    """
    honest = list(range(len(sets)))
    found: dict[int, str] = {}
    means = _class_means(sets)
    while len(honest) > 2 and 2 * (len(found) + 1) < len(sets):
        judged = {one: _judge(means[honest], honest.index(one)) for one in honest}
        doubts = {one: doubt for one in honest if (doubt := _doubt(one, judged)) is not None}
        if not doubts:
            break
        worst = min(doubts, key=lambda one: doubts[one])
        found[worst] = _reason(judged[worst], sets[worst].distilled.class_names)
        honest.remove(worst)
    return found


def _class_means(sets: Sequence[ClientSet]) -> Tensor:
    """Return the mean image of every client's classes (N, K, D), NaN where it has none."""
    rows = []
    for one in sets:
        images, labels = one.distilled.tensors()[0].flatten(1), one.distilled.hard_labels()
        member = torch.nn.functional.one_hot(labels, one.distilled.num_classes).to(images)
        rows.append((member.T @ images) / member.sum(dim=0)[:, None])
    return torch.stack(rows)


def _judge(means: Tensor, place: int) -> _Judged:
    """Compare the class means of the client at ``place`` of ``means``, (N, K, D), with those of the others."""
    own, others = means[place], torch.cat([means[:place], means[place + 1 :]])
    clients, classes, _ = others.shape
    distances = torch.cdist(own, others.flatten(0, 1)).view(classes, clients, classes).nanmedian(dim=1).values
    distances = distances.clamp(min=_TINY)
    mine = distances.diagonal().clone()
    distances.fill_diagonal_(torch.inf)
    nearest = distances.nan_to_num(nan=torch.inf).min(dim=1)
    return _Judged((nearest.values / mine).log(), nearest.indices)


def _doubt(one: int, judged: dict[int, _Judged]) -> tuple[float, float] | None:
    """Return a number that is smaller the less a client can be believed; None for one that can."""
    own, others = judged[one].known, torch.cat([other.known for place, other in judged.items() if place != one])
    if not len(own) or not len(others):
        return None
    agreeing, rate = judged[one].agreeing, float((others > 0).double().mean())
    chance = float(stats.binom.cdf(agreeing, len(own), min(MOST_AGREEMENT, rate)))
    worst = float(own.min())
    whole = 2 * agreeing < len(own) and chance < LEVEL
    single = rate >= RELIABLE and worst < -float(others.median())
    return (chance, worst) if whole or single else None


def _reason(own: _Judged, names: Sequence[str]) -> str:
    wrong = (own.margins < 0).nonzero().flatten().tolist()
    told = ", ".join(f"'{names[number]}' looks like '{names[int(own.alike[number])]}'" for number in wrong[:3])
    return (
        f"its labels of {len(wrong)} of {len(own.known)} classes disagree with the images of the other clients: "
        f"{told}{', ...' if len(wrong) > 3 else ''}"
    )
