"""Which codes generate given real images: gradient descent on the codes, in features and in pixels."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ddkit.base.progress import Report, silent
from ddkit.base.stages import Stages
from ddkit.data.real import RealData
from ddkit.errors import DivergedError
from ddkit.models.spec import ModelSpec
from ddkit.training.recipe import TrainingRecipe
from ddkit.training.train import train_networks

#: Codes inverted together; each is a problem of its own, so this bounds memory and changes nothing.
BLOCK = 500
_FEATURE_WIDTH = 32
_TRAINING_IMAGES = 12_800
_BATCH = 128
_RATE = 0.02


def train_features(real: RealData, steps: int, generator: torch.Generator, device: torch.device) -> nn.Module:
    """Train the ConvNet in whose features images are compared during inversion.

    Deviates from IT-GAN, which trains a ConvNet of width 128 for 200 epochs with augmentation: here width 32, about
    ``steps`` SGD steps with momentum on at most 12,800 images, without augmentation.

    Args:
        real: training data.
        steps: SGD steps on batches of 128, rounded up to whole epochs.
        generator: CPU stream.
        device: where to train.

    Returns:
        the frozen network, with ``features``.
    """
    index = torch.randperm(len(real), generator=generator)[:_TRAINING_IMAGES]
    images = real.batch(index).to(device)
    labels = real.labels[index.to(real.labels.device)].to(device)
    epochs = math.ceil(steps / math.ceil(len(index) / _BATCH))
    recipe = TrainingRecipe(name="inversion", epochs=epochs, lr=_RATE, batch_size=_BATCH, schedule="cosine")
    seed = int(torch.randint(2**62, (1,), generator=generator))
    spec = ModelSpec("convnet", {"width": _FEATURE_WIDTH})
    (network,) = train_networks(
        images, labels, spec, recipe, [seed], num_classes=real.num_classes, device=device, stacked=False
    )
    return network.eval().requires_grad_(False)


def invert(
    decode: Callable[[Tensor, Tensor], Tensor],
    features: Callable[[Tensor], Tensor],
    codes: Tensor,
    labels: Tensor,
    targets: Callable[[Tensor], Tensor],
    *,
    steps: int,
    lr: float,
    report: Report = silent,
    stages: Stages = Stages(None),
) -> tuple[Tensor, Tensor]:
    r"""Move every code until it generates its own real image (IT-GAN, https://arxiv.org/abs/2204.07513, stage 1).

    .. math::
        L(z_i) = \mathrm{mean}_d\,(\psi(G(z_i, y_i)) - \psi(x_i))_d^2 + \mathrm{mean}_p\,(G(z_i, y_i) - x_i)_p^2

    By Adam, without augmentation, without a prior on the codes: they end outside the normal distribution that they
    come from. Deviates from the authors' program, in which one Adam over a class takes its codes in batches, so that a
    code also moves by its momentum while others are visited: here every code is in every step. :math:`\psi(x_i)` is
    computed once.

    Args:
        decode: maps codes (n, d) and labels (n,) to images (n, C, H, W).
        features: :math:`\psi`, maps images to (n, D); None of its weights should require a gradient.
        codes: (M, d) starting points.
        labels: (M,) int64 classes.
        targets: maps positions (n,) int64 on the CPU to the real images (n, C, H, W) of these codes.
        steps: updates of every code.
        lr: learning rate of Adam.
        report: told how many codes are done.
        stages: keeps the codes that are found.

    Returns:
        the codes (M, d), without a graph, and their mean feature and pixel loss before and after: (2, 2), rows before
        and after, columns feature and pixel.

    Raises:
        DivergedError: a code or a loss is no longer finite.
    """
    found: list[Tensor] = []
    losses: list[Tensor] = []

    def take(kept: dict[str, list[Tensor]]) -> None:
        found.extend(code.to(codes) for code in kept["found"])
        losses.extend(loss.to(codes.device) for loss in kept["losses"])

    stages.restore("inversion", take)
    for position in torch.arange(len(codes)).split(BLOCK)[len(found) :]:
        block = position.to(codes.device)
        images = targets(position)
        with torch.no_grad():
            wanted = features(images)
        code = codes[block].detach().clone().requires_grad_()
        classes = labels[block]

        def terms(code: Tensor = code, classes: Tensor = classes, x: Tensor = images, f: Tensor = wanted) -> Tensor:
            generated = decode(code, classes)
            errors = (features(generated) - f, generated - x)
            return torch.stack([error.square().flatten(1).mean(1).sum() for error in errors])

        optimiser = torch.optim.Adam([code], lr=lr)
        with torch.no_grad():
            before = terms()
        for _ in range(steps):
            (code.grad,) = torch.autograd.grad(terms().sum(), code)
            optimiser.step()
        with torch.no_grad():
            losses.append(torch.stack([before, terms()]))
        found.append(code.detach())
        report("looking for the codes of real images", sum(map(len, found)), len(codes))
        stages.keep("inversion", lambda: {"found": found, "losses": losses})
    result, loss = torch.cat(found), torch.stack(losses).sum(0) / len(codes)
    if not bool(result.isfinite().all() and loss.isfinite().all()):
        raise DivergedError(f"inversion diverged at a rate of {lr:g}: use init=prior, or another generator")
    return result, loss
