"""How is a generator trained on a real dataset: the hinge loss, a moving average, recalibrated statistics."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ddkit.base.progress import Report, silent
from ddkit.base.ranges import Count, in_range
from ddkit.base.stages import Stages
from ddkit.data.real import RealData
from ddkit.errors import DivergedError
from ddkit.models.spec import seeded
from ddkit.synthesis.gan.generator import ConditionalBatchNorm, Discriminator, Generator

GENERATOR_RATE, DISCRIMINATOR_RATE = 4e-4, 8e-4
BETAS = (0.0, 0.99)
#: Share of the present weights that enters their moving average after every step.
AVERAGE_RATE = 0.005
#: Batches, and images in each, from which the averaged weights get their batch norm statistics.
CALIBRATION = (8, 256)


@in_range("generator")
def train_generator(
    real: RealData,
    generator: torch.Generator,
    *,
    code_size: int = 32,
    width: int | None = None,
    steps: Count = 1500,
    batch: Annotated[int, Field(ge=2)] = 64,
    device: torch.device | str = "cpu",
    report: Report = silent,
    stages: Stages = Stages(None),
) -> Generator:
    r"""Train a class-conditional generator by the hinge loss, one discriminator step per generator step.

    .. math::
        L_D = \mathbb{E}\,[1 - D(x, y)]_+ + \mathbb{E}\,[1 + D(G(z, y), y)]_+, \qquad L_G = -\mathbb{E}\,D(G(z, y), y)

    What is returned is the moving average of the generator's weights. Its batch norm statistics are taken anew, as
    those of the trained weights do not belong to it. Both steps of a round share one batch of generated images.

    Args:
        real: training data, at least one image; drawn with replacement, augmented in no way.
        generator: CPU stream of everything random.
        code_size: numbers in a code.
        width: feature maps; None for 32 up to 16 pixels and 64 above.
        steps: rounds.
        batch: real, and as many generated, images per round; batch norm needs several.
        device: where to train.
        report: told how many rounds are done.
        stages: keeps how far the training is, from which it goes on to the same weights.

    Returns:
        the frozen generator, in eval mode, on ``device``.

    Raises:
        ConfigError: a size out of range.
        DivergedError: weights that are no longer finite.
    """
    device = torch.device(device)
    with seeded(int(torch.randint(2**62, (1,), generator=generator))):
        trained = Generator(real.shape, real.num_classes, code_size, width)
        judge = Discriminator(real.shape, real.num_classes, trained.width)
    trained, judge = trained.to(device), judge.to(device)
    average = copy.deepcopy(trained).requires_grad_(False)
    optimiser = torch.optim.Adam(trained.parameters(), lr=GENERATOR_RATE, betas=BETAS, fused=True)
    opponent = torch.optim.Adam(judge.parameters(), lr=DISCRIMINATOR_RATE, betas=BETAS, fused=True)
    parts: dict[str, Any] = {
        "trained": trained,
        "judge": judge,
        "average": average,
        "optimiser": optimiser,
        "opponent": opponent,
    }
    begun = 0

    def state() -> dict[str, Any]:
        states = {name: dict(part.state_dict()) for name, part in parts.items()}
        return {"round": number, "random": generator.get_state(), **states}

    def take(kept: dict[str, Any]) -> None:
        nonlocal begun
        for name, part in parts.items():
            part.load_state_dict(kept[name])
        generator.set_state(kept["random"])
        begun = int(kept["round"])

    stages.restore("generator", take)
    rounds = _rounds(real, code_size, steps - begun, batch, generator, device)
    for number, (images, labels, codes) in enumerate(rounds, start=begun + 1):
        fake = trained(codes, labels)
        scores = judge(torch.cat([images, fake.detach()]), labels.repeat(2))
        _step(opponent, F.relu(1 - scores[:batch]).mean() + F.relu(1 + scores[batch:]).mean())
        judge.requires_grad_(False)
        _step(optimiser, -judge(fake, labels).mean())
        judge.requires_grad_(True)
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(trained.parameters()), AVERAGE_RATE)
        report("training the generator", number, steps)
        stages.keep("generator", state, done=number == steps)
    if not all(bool(weights.isfinite().all()) for weights in average.parameters()):
        raise DivergedError(
            f"the generator diverged within {steps} training steps: lower synthesis.generator_steps, or bring a "
            f"trained one with synthesis.generator"
        )
    recalibrate(average, real, generator)
    return average.eval()


def pixels_at(real: RealData, index: Tensor, device: torch.device) -> Tensor:
    """Return the images (N, C, H, W) at ``index`` (N,) in [-1, 1], without the preprocessing of ``real``."""
    images = real.images.index_select(0, index.to(real.images.device))
    return images.to(device, torch.float32).mul_(2 / 255).sub_(1)


def recalibrate(trained: Generator, real: RealData, generator: torch.Generator) -> None:
    """Replace the batch norm statistics of ``trained`` by averages over fresh codes, with the labels of ``real``."""
    batches, size = CALIBRATION
    norms = [module for module in trained.modules() if isinstance(module, ConditionalBatchNorm)]
    device = trained.linear.weight.device
    trained.train()
    with torch.no_grad():
        for number in range(batches):
            for norm in norms:
                norm.momentum = 1 / (number + 1)  # the running value becomes the plain mean over batches
            labels = real.labels[torch.randint(len(real), (size,), generator=generator).to(real.labels.device)]
            trained(torch.randn(size, trained.code_size, generator=generator).to(device), labels.to(device))
    trained.eval()


def _rounds(
    real: RealData, code_size: int, steps: int, batch: int, generator: torch.Generator, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the real images, their labels (also those of the generated images) and the codes of every round."""
    for _ in range(steps):
        index = torch.randint(len(real), (batch,), generator=generator)
        labels = real.labels[index.to(real.labels.device)].to(device)
        yield pixels_at(real, index, device), labels, torch.randn(batch, code_size, generator=generator).to(device)


def _step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
