"""How networks are trained on a distilled or real set, several repeats at once where that is faster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

from ddkit.base.device import resolve_device
from ddkit.base.memory import freed_memory_kept
from ddkit.base.precision import Precision, pass_cost
from ddkit.base.streams import Streams, default_draws, derive_seed
from ddkit.data.real import RealData
from ddkit.errors import ConfigError, DivergedError
from ddkit.models.base import uses_batch_norm
from ddkit.models.spec import ModelSpec
from ddkit.training.batches import Batches, TrainingSet, given_batches, training_set
from ddkit.training.learners import Learner, Workload, create_learner
from ddkit.training.recipe import TrainingRecipe
from ddkit.training.ridge import train_by_ridge

TrainingPrecision = Literal["float32", "bfloat16"]
Progress = Callable[[int, int], None]

#: Multiply-adds of one network's forward pass over a batch up to which stacking is chosen, by device; see
#: :func:`stacking_pays` for the measurement behind the CPU's figure. CUDA's is an estimate (kernels of that
#: size are as short as their launches), not measured.
STACKED_WORK = {"cpu": 5e6, "cuda": 5e9}
#: Bytes that the activations of the networks of one stack may take, by device.
STACKED_BYTES = {"cpu": 2**30, "cuda": 8 * 2**30}


def build_optimiser(parameters: list[Tensor], recipe: TrainingRecipe, rate: float) -> torch.optim.Optimizer:
    """Return a fresh optimiser (fused kernels, empty state) with learning rate ``rate``."""
    if recipe.optimiser == "adam":
        return torch.optim.Adam(parameters, lr=rate, weight_decay=recipe.weight_decay, fused=True)
    return torch.optim.SGD(parameters, lr=rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay, fused=True)


def run_epochs(
    learner: Learner,
    batches: Batches,
    report: Callable[[int], None],
    after_step: Callable[[], None] = lambda: None,
) -> None:
    """Train the networks of ``learner`` for the epochs of the batches' recipe.

    Args:
        learner: leaves the gradients of a batch in its parameters.
        batches: of every epoch.
        report: called with the number of epochs done, from 1.
        after_step: called after every step of the optimiser, for instance to project the weights.
    """
    recipe = batches.recipe
    by_step, step, steps = recipe.schedule == "warmup", 0, recipe.steps(len(batches.data))
    for epoch in range(recipe.total_epochs):
        rate = recipe.rate_at(step, steps) if by_step else recipe.rate(epoch)
        if recipe.rebuilds_optimiser(epoch):
            optimiser = build_optimiser(learner.parameters, recipe, rate)
        for images, targets, weights in batches.epoch():
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate_at(step, steps) if by_step else rate
            learner.compute_gradients(images, targets, weights)
            optimiser.step()
            after_step()
            step += 1
        report(epoch + 1)


@torch.no_grad()
def _take_given_steps(learner: Learner, data: TrainingSet, recipe: TrainingRecipe, networks: int) -> None:
    """Take the recipe's own steps in their order: v <- mu_t v + g, theta <- theta - eta_t v, with v = 0 at first."""
    velocities = [torch.zeros_like(parameter) for parameter in learner.parameters]
    batches = [data.batch(index) for index in given_batches(data, recipe)]
    for t, rate in enumerate(recipe.rates):
        images, targets = batches[t % recipe.runs]
        weights = torch.full((len(targets),), 1 / len(targets), dtype=data.dtype, device=images.device)
        images = images.expand(networks, *images.shape)
        with torch.enable_grad():
            learner.compute_gradients(images, targets.expand(networks, *targets.shape), weights)
        momentum = recipe.momenta[t] if recipe.momenta else 0.0
        for parameter, velocity in zip(learner.parameters, velocities, strict=True):
            assert parameter.grad is not None
            velocity.mul_(momentum).add_(parameter.grad)
            parameter.sub_(velocity, alpha=rate)


def stacking_pays(model: nn.Module, setting: Workload) -> bool:
    """Say whether several networks are trained faster as stacked weights than one after the other.

    True when a step of one network is so small that launching its kernels outweighs computing them: at most
    ``STACKED_WORK`` multiply-adds per forward pass of the batch. The rule looks only at the shapes and the
    device.

    Measured with PyTorch 2.15 on 2 CPU threads, milliseconds per step of 5 ConvNets without augmentation,
    serial against stacked (best of 3): 1x8x8, depth 2, width 32: 7.0 / 4.3 with a batch of 10, 11.2 / 11.0
    with 50, 15.5 / 17.8 with 100; 1x28x28, depth 3: 22.4 / 29.5 with width 32 and 120.7 / 161.7 with width
    128, batch of 10; 3x32x32, depth 3, width 32, batch of 100: 224 / 426. The first is 1.7e6 multiply-adds,
    the second 8.4e6, the last 3.8e8.
    """
    if uses_batch_norm(model):
        return False
    work = pass_cost(model, setting.shape).multiply_adds * setting.batch
    return work <= STACKED_WORK.get(setting.device.type, STACKED_WORK["cpu"])


def _stack_size(model: nn.Module, setting: Workload) -> int:
    """Return how many networks fit one stack (at least one), their activations within ``STACKED_BYTES``."""
    layers = sum(1 for module in model.modules() if not any(True for _ in module.children()))
    numbers = pass_cost(model, setting.shape).largest_activation * layers * setting.batch
    limit = STACKED_BYTES.get(setting.device.type, STACKED_BYTES["cpu"])
    return max(1, limit // (2 * numbers * setting.dtype.itemsize))


def _plan(
    setting: Workload,
    data: TrainingSet,
    recipe: TrainingRecipe,
    seeds: Sequence[int],
    stacked: bool | None,
    pad_last: bool | None = None,
) -> tuple[int, bool]:
    """Return how many networks are stacked (0 for none) and whether the last batch is padded."""
    count, probe = _shown(data, recipe), setting.build(seeds[0])
    if uses_batch_norm(probe):
        name = setting.spec.canonical()
        if stacked:
            raise ConfigError(f"stacked=True with '{name}': batch norm keeps statistics per network; use stacked=False")
        if pad_last and count % setting.batch:
            raise ConfigError(
                f"padding the last batch of {setting.batch} out of {count} images would change the batch "
                f"statistics of '{name}'; use pad_last=False, or a batch size that divides {count}"
            )
        return 0, False
    if setting.centred:
        if stacked:
            raise ConfigError(
                "stacked=True with a centred recipe: initial outputs differ per network; use stacked=False"
            )
        stacked = False
    if setting.random:
        if stacked:
            raise ConfigError(
                f"stacked=True with '{setting.spec.canonical()}': its passes draw random numbers (dropout or the "
                "like), which belong to one network each; use stacked=False"
            )
        stacked = False
    if stacked is None:
        stacked = len(seeds) > 1 and not setting.precision.compile and stacking_pays(probe, setting)
    pad = setting.precision.compile if pad_last is None else pad_last
    return _stack_size(probe, setting) if stacked and recipe.head == "linear" else 0, pad


def networks_at_once(
    images: Tensor | RealData,
    labels: Tensor | None,
    spec: ModelSpec,
    recipe: TrainingRecipe,
    seeds: Sequence[int],
    *,
    num_classes: int,
    device: str | torch.device = "auto",
    stacked: bool | None = None,
    precision: TrainingPrecision = "float32",
    compile: bool = False,
) -> int:
    """Return how many networks :func:`train_networks` stacks; 0 where it trains one after the other.

    Args and errors are those of :func:`train_networks`.
    """
    data = training_set(images, labels, recipe, num_classes, resolve_device(device))
    setting = setting_of(data, spec, recipe, Precision(getattr(torch, precision), compile))
    return _plan(setting, data, recipe, seeds, stacked)[0]


def _shown(data: TrainingSet, recipe: TrainingRecipe) -> int:
    """Return how many images one epoch (of steps that are given: one step) shows."""
    return len(data) // recipe.runs if recipe.schedule == "given" else recipe.shown(len(data))


def setting_of(data: TrainingSet, spec: ModelSpec, recipe: TrainingRecipe, precision: Precision) -> Workload:
    """Return what fixes the kernels of training ``spec`` on ``data`` with ``recipe``."""
    count = _shown(data, recipe)
    return Workload(
        spec=spec,
        shape=data.shape,
        num_classes=data.num_classes,
        batch=count if recipe.schedule == "given" else min(recipe.batch_size, count),
        soft=data.targets.is_floating_point() or recipe.cutmix > 0,
        kind=recipe.loss_for("hard"),
        precision=precision,
        device=data.targets.device,
        dtype=data.dtype,
        start=recipe.start,
        centred=recipe.centred,
        scale=recipe.label_scale,
    )


@freed_memory_kept()
def train_networks(
    images: Tensor | RealData,
    labels: Tensor | None,
    spec: ModelSpec,
    recipe: TrainingRecipe,
    seeds: Sequence[int],
    *,
    num_classes: int,
    device: str | torch.device = "auto",
    stacked: bool | None = None,
    precision: TrainingPrecision = "float32",
    compile: bool = False,
    pad_last: bool | None = None,
    progress: Progress | None = None,
) -> list[nn.Module]:
    """Train one freshly initialised network per seed with ``recipe``.

    Network r draws its initialisation, batch order, views, augmentation, CutMix and dropout from separate streams of
    ``seeds[r]``, so it does not depend on how many others are trained or on how: serial and stacked training
    agree to rounding.

    Args:
        images: preprocessed float images (N, C, H, W), whose number format the networks take (float64 for
            exact comparisons), or a real set, preprocessed batch by batch.
        labels: class indices (N,), or probabilities or regression rows (N, K); None takes those of the real
            set.
        spec: the architecture.
        recipe: how to train; ``loss="auto"`` means cross-entropy here, :func:`evaluate` resolves it by label
            kind.
        seeds: one seed per network.
        num_classes: number of classes K.
        device: where to train; ``auto`` takes an accelerator where there is one.
        stacked: train all networks at once as stacked weights; None decides by :func:`stacking_pays`.
        precision: ``"float32"``, or ``"bfloat16"`` autocast over float32 weights.
        compile: compile the forward pass and the loss once for all networks and later calls; serial.
        pad_last: fill the last partial batch with rows of weight zero, so that all batches have one shape;
            exact for networks without batch norm. None does so when compiling a network without batch norm.
        progress: called after every epoch with the numbers of network epochs done and in total.

    Returns:
        The trained networks in the order of ``seeds``, on ``device``, in training mode.

    Raises:
        ConfigError: no seeds, stacking or padding with batch norm, stacking with dropout, or stacking together with
            compiling.
        DataError: images or labels of the wrong kind, shape or range.
        DivergedError: weights that are no longer finite.
    """
    if len(seeds) < 1:
        raise ConfigError("train_networks got no seeds: at least 1 network must be trained")
    if stacked and compile:
        raise ConfigError("stacked=True and compile=True exclude each other: leave one of them out")
    if precision not in ("float32", "bfloat16"):
        raise ConfigError(f"precision='{precision}' is unknown; use 'float32' or 'bfloat16'")
    data = training_set(images, labels, recipe, num_classes, resolve_device(device))
    setting = setting_of(data, spec, recipe, Precision(getattr(torch, precision), compile))
    size, pad = _plan(setting, data, recipe, seeds, stacked, pad_last)
    width, total = max(size, 1), recipe.total_epochs * len(seeds)
    networks: list[nn.Module] = []
    for start in range(0, len(seeds), width):
        group = list(seeds[start : start + width])

        def report(epochs: int, start: int = start, width: int = len(group)) -> None:
            if progress is not None:
                progress(recipe.total_epochs * start + epochs * width, total)

        with default_draws(derive_seed(group[0], "passes"), setting.device) if setting.random else nullcontext():
            networks += _trained(setting, data, recipe, group, size > 0, pad, report)
    _require_finite(networks, seeds, recipe)
    return networks


def _trained(
    setting: Workload,
    data: TrainingSet,
    recipe: TrainingRecipe,
    seeds: Sequence[int],
    stacked: bool,
    pad: bool,
    report: Callable[[int], None],
) -> list[nn.Module]:
    """Train the networks of one stack, or the only one."""
    streams = [Streams(seed) for seed in seeds]
    if recipe.head == "ridge":
        return [train_by_ridge(setting, data, recipe, streams[0], report)]
    learner = create_learner(setting, seeds, stacked)
    if recipe.schedule == "given":
        _take_given_steps(learner, data, recipe, len(seeds))
        report(recipe.total_epochs)
    else:
        run_epochs(learner, Batches(data, recipe, streams, pad), report)
    return learner.trained()


def _require_finite(networks: Sequence[nn.Module], seeds: Sequence[int], recipe: TrainingRecipe) -> None:
    for network, seed in zip(networks, seeds, strict=True):
        if not all(bool(parameter.isfinite().all()) for parameter in network.parameters()):
            raise DivergedError(
                f"training diverged (seed {seed}, learning rate {recipe.lr}): weights are no longer finite; "
                "lower the recipe's lr or check the images"
            )
