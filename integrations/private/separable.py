"""Does the row of a record depend on that record alone? Tried on public images with the very function of a query."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddkit.data.real import RealData
from ddkit.errors import ConfigError
from ddkit.networks.network import Network

#: What a row may change by, relative to its length, before it is more than float32 rounding: other batches moved
#: features and gradients by at most 8.6e-7 in 450 ConvNets (width 16; 1x8x8, 1x28x28 and 3x32x32).
FLOAT32_ROUNDING = 5e-5
#: Rounding can switch a unit on or off, which moved gradients by 1e-2 in 2 of 332 trials (ConvNet, 1x28x28), but hardly
#: in as many trials in a row; what is larger than the second number needs one.
_TRIALS, _PLAIN = 5, 0.1
#: The same where products are rounded to TF32 or bfloat16.
COARSE_ROUNDING = 2e-2
#: Companions far outside of the range of images make a weak influence on their neighbours plain.
_LOUD = 1000.0
#: Records in the largest batch that is tried: what signals show a network at once.
_MOST = 256
_COARSE = 4
_REMEDY = "use a model without batch statistics, dropout or memory, such as convnet:norm=instance"


def rounding_of(network: Network) -> float:
    """Return how far equal rows may lie apart, by the arithmetic of a network."""
    exact = network.device.type == "cpu" and network.precision.dtype == torch.float32
    return FLOAT32_ROUNDING if exact else COARSE_ROUNDING


def require_separate(
    rows: Callable[[Tensor, Tensor], Tensor], public: RealData, clip: float, number: int, most: int, rounding: float
) -> None:
    """Refuse rows that another record, its place in the batch or an earlier call can change.

    Three public images are shown alone, first in a small batch of ordinary companions, last in a batch with loud ones
    as large as those of the query (of random size after the first query), and alone again. Rows are compared as they
    are and clipped.

    Args:
        rows: maps images (n, C, H, W) and labels (n,) to rows (n, D).
        public: stand-in, for shape, classes and preprocessing.
        clip: largest norm of a row.
        number: of the query; every one is tried with other images.
        most: records that the query shows at once.
        rounding: largest difference, relative to the longest of the rows.

    Raises:
        ConfigError: saying what changes a row; the query was neither paid for nor made.
    """
    for trial in range(_TRIALS):
        difference, refusal = _trial(rows, public, clip, number, trial, most, rounding)
        if refusal is None:
            return
        if difference > _PLAIN or trial == _TRIALS - 1:
            raise refusal


def _trial(
    rows: Callable[[Tensor, Tensor], Tensor],
    public: RealData,
    clip: float,
    number: int,
    trial: int,
    most: int,
    rounding: float,
) -> tuple[float, ConfigError | None]:
    """Show one choice of images; return by how much a row changed, and what to say if that is more than rounding."""
    generator = torch.Generator().manual_seed(_TRIALS * number + trial)
    subjects = public.preprocessing.apply(_subjects(public.shape, generator))
    labels = (torch.arange(len(subjects)) + number) % public.num_classes

    def one_by_one() -> Tensor:
        return torch.cat([rows(image[None], label[None]) for image, label in zip(subjects, labels, strict=True)])

    with torch.random.fork_rng(devices=[]):
        alone = one_by_one()
        for size, loud in ((len(subjects) + 4, False), (_size(number, most, generator), True)):
            count = max(1, size - len(subjects))
            images = public.preprocessing.apply(_companions(count, public.shape, generator))
            if loud:
                images[::4] *= _LOUD
                images[3::4] *= _LOUD
            theirs = torch.randint(public.num_classes, (count,), generator=generator)
            order = -1 if loud else 1
            found = rows(torch.cat((subjects, images)[::order]), torch.cat((labels, theirs)[::order]))
            seen = found[-len(subjects) :] if loud else found[: len(subjects)]
            difference = _difference(alone, seen, clip)
            if difference > rounding:
                changes = _difference(alone, one_by_one(), clip) > rounding
                return difference, _refusal(f"in a batch of {len(found)} it is another one", changes=changes)
        difference = _difference(alone, one_by_one(), clip)
        return difference, _refusal("", changes=True) if difference > rounding else None


def _difference(rows: Tensor, others: Tensor, clip: float) -> float:
    """Return the largest change of rows (n, D), as they are or clipped, relative to the longest of them."""
    largest = 0.0
    for one, other in ((_finite(rows), _finite(others)), (clipped(rows, clip), clipped(others, clip))):
        change = float((one - other).norm(dim=1).max())
        if change > 0:
            largest = max(largest, change / max(float(one.norm(dim=1).max()), 1e-300))
    return largest


def clipped(values: Tensor, clip: float) -> Tensor:
    """Bound the norm of every row (n, D); a row that is not finite becomes zero, as its norm bounds nothing."""
    values = _finite(values)
    norms = values.norm(dim=1, keepdim=True)
    return values * (clip / norms.clamp(min=clip))


def _finite(values: Tensor) -> Tensor:
    return torch.where(torch.isfinite(values).all(1, keepdim=True), values, torch.zeros(()).double())


def require_stateless(module: nn.Module, public: RealData) -> None:
    """Refuse a network that remembers: what it kept of private records would reach the synthetic side without noise.

    Args:
        module: in the mode in which the run uses it.
        public: stand-in, for shape and preprocessing.

    Raises:
        ConfigError: a call changed weights or buffers, or the answers of later calls.
    """
    generator = torch.Generator().manual_seed(0)
    shown, others = (public.preprocessing.apply(_companions(4, public.shape, generator)) for _ in range(2))
    before = {name: value.detach().clone() for name, value in module.state_dict().items()}
    with torch.random.fork_rng(devices=[]):
        first = [part.detach() for part in (module.features(shown), module(shown))]  # type: ignore[operator]
        with torch.no_grad():
            module.features(others * _LOUD)  # type: ignore[operator]
            module(others * _LOUD)
        second = [part.detach() for part in (module.features(shown), module(shown))]  # type: ignore[operator]
    same = all(
        torch.allclose(one, two, rtol=FLOAT32_ROUNDING, atol=FLOAT32_ROUNDING * float(one.abs().max()))
        for one, two in zip(first, second, strict=True)
    )
    if not same or not all(torch.equal(value, before[name]) for name, value in module.state_dict().items()):
        raise _refusal("", changes=True)


def _refusal(how: str, *, changes: bool) -> ConfigError:
    if changes:
        return ConfigError(
            f"a private query needs every record on its own, and this network gives the same record another row from "
            f"call to call (chance, as in dropout, or a memory of other records): {_REMEDY}"
        )
    return ConfigError(
        f"a private query needs every record on its own, and this network mixes the records of a batch (the row of a "
        f"record alone is one thing, {how}), so that epsilon would be false: {_REMEDY}"
    )


def _size(number: int, most: int, generator: torch.Generator) -> int:
    """Return a batch size: the largest at the first query, then log-uniform, as a whole batch each time costs much."""
    largest = min(most, _MOST)
    if number == 0:
        return largest
    return round(math.exp(float(torch.rand((), generator=generator)) * math.log(max(2, largest))))


def _subjects(shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Return grain, blobs with grain and smooth shades, uint8 (3, C, H, W).

    None of them is blank: a norm divides what is constant by next to nothing, so that rounding decides about the sign
    of its activations, and with it about gradients.
    """
    channels, height, width = shape
    grain, specks = (_images("g", 1, shape, generator) for _ in range(2))
    coarse = torch.rand(1, channels, _COARSE, _COARSE, generator=generator)
    shades = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    blobs = _images("b", 1, shape, generator) // 2 + specks // 2
    return torch.cat([grain, blobs, (255 * shades).to(torch.uint8) // 4 * 3 + specks // 4])


def _companions(count: int, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Return images of many kinds, uint8 (count, C, H, W)."""
    blank = torch.zeros(1, *shape, dtype=torch.uint8)
    kinds = [blank + 255, _images("b", 1, shape, generator), blank, _images("g", 1, shape, generator)]
    return torch.cat(kinds * math.ceil(count / len(kinds)))[:count].clone()


def _images(kind: str, count: int, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Return black-and-white blobs (``b``) or grain (``g``)."""
    channels, height, width = shape
    if kind == "g":
        return torch.randint(256, (count, *shape), generator=generator, dtype=torch.uint8)
    coarse = torch.randn(count, channels, _COARSE, _COARSE, generator=generator)
    blobs = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False) > 0
    return blobs.to(torch.uint8) * 255
