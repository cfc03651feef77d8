"""How good is a distilled set under the kernel classifier that it was learned for?"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ddkit.base.device import resolve_device
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData
from ddkit.errors import ConfigError
from ddkit.evaluation.choice import recipe_of
from ddkit.evaluation.compatibility import check_compatible
from ddkit.evaluation.evaluate import network_seeds
from ddkit.evaluation.results import ArchitectureResult, EvaluationResult, KernelRecipe
from ddkit.models.kernels.base import Kernel, create
from ddkit.models.kernels.classifier import KernelClassifier, regression_rows, with_mirrored
from ddkit.models.kernels.features import NetworkFeatures
from ddkit.models.spec import ModelSpec
from ddkit.training.accuracy import right
from ddkit.training.learners import Centred
from ddkit.training.train import train_networks

#: Test images that a kernel sees at once.
CHUNK = 512


def kernel_of(distilled: DistilledDataset) -> KernelRecipe | None:
    """Return the kernel classifier for which a set was learned, or None.

    Raises:
        ConfigError: the set carries something that is not a kernel.
    """
    card = distilled.card.kernel
    if card is None:
        return None
    try:
        return KernelRecipe(kernel=card["describe"], regulariser=card["regulariser"], flip=card.get("flip", False))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"the set's card describes no kernel ({error!r}): evaluate it with networks") from None


def evaluate_kernel(
    distilled: DistilledDataset,
    test: RealData,
    architectures: Sequence[str | ModelSpec] = ("convnet",),
    repeats: int = 5,
    how: KernelRecipe | None = None,
    seed: int = 0,
    *,
    device: str | torch.device = "auto",
    networks: Mapping[ModelSpec, Sequence[nn.Module]] | None = None,
    **training: Any,
) -> EvaluationResult:
    r"""Classify real images by kernel ridge regression on a distilled set (survey Eq. 14).

    .. math:: \hat y(x) = K(x, S) (K_{ss} + \lambda \tfrac{\mathrm{tr} K_{ss}}{n} I)^{-1} y_s

    A kernel of infinitely wide networks gives one accuracy; one of random networks ``repeats``, for as many draws; that
    of trained networks one for every network, trained on the set as its recipe says.

    Args:
        distilled: the set S.
        test: real test images, which get the preprocessing of the set.
        architectures: of the networks whose features are compared, for such a kernel.
        repeats: draws or networks.
        how: the classifier; None for that of the set.
        seed: of the evaluation.
        device: where the kernel is computed.
        networks: of every architecture, ``repeats`` of them, trained on the set as its recipe says and with this seed,
            as :func:`~ddkit.evaluation.evaluate` hands them to ``keep``, whose row counts the seconds of their
            training; None trains them.
        training: precision, compile, stacked of :func:`~ddkit.training.train_networks`, for trained networks.

    Returns:
        the result, a row per kernel.

    Raises:
        ConfigError: a set that was not learned for a kernel, or fewer than one repeat.
        DataError: a set that does not fit the test data.
        RunError: the system is not positive definite.
    """
    device = str(resolve_device(device))
    how = kernel_of(distilled) if how is None else how
    if how is None:
        raise ConfigError("this set was not learned for a kernel: evaluate it with networks")
    if repeats < 1:
        raise ConfigError(f"{repeats} repeats: at least 1 kernel must be tried")
    check_compatible(distilled, test)
    test = test.with_preprocessing(distilled.preprocessing)
    if how.kernel["name"] == NetworkFeatures.name:
        how = how.model_copy(update={"networks": recipe_of(distilled)})
        specs = [ModelSpec.parse(item) for item in architectures]
        repeats = repeats if how.networks is None or how.networks.start is None else 1  # all would be the same
        rows = []
        for spec in specs:
            seeds, begun = network_seeds(seed, spec, repeats), time.perf_counter()
            given = (networks or {}).get(spec)
            trained = _trained(distilled, spec, seeds, device, training) if given is None else given
            rows.append(_row_of_features(distilled, test, how, spec, trained, seeds, device, begun))
    else:
        rows = [_fixed_row(distilled, test, how, repeats, device)]
    return EvaluationResult(
        rows=tuple(rows),
        recipe=how,
        data=test.name,
        split=test.split,
        test_size=len(test),
        label_kind=distilled.label_kind,
        train_images=len(distilled),
        budget=distilled.budget.as_dict(),
        note="kernel ridge regression on the set; nothing was selected on the test set",
    )


def _fixed_row(
    distilled: DistilledDataset, test: RealData, how: KernelRecipe, repeats: int, device: str
) -> ArchitectureResult:
    """Test a kernel that its description makes: once, or for several seeds where it has one."""
    started, described = time.perf_counter(), how.kernel
    seeds = [int(described["seed"]) + draw for draw in range(repeats)] if "seed" in described else [0]
    values = []
    for seed in seeds:
        description = {**described, "seed": seed} if "seed" in described else described
        kernel = create(description, distilled.shape, distilled.num_classes, device)
        values.append(_accuracy(kernel, distilled, test, how, device))
    return _row(in_words(described), values, seeds, started)


def _trained(
    distilled: DistilledDataset, spec: ModelSpec, seeds: Sequence[int], device: str, training: Mapping[str, Any]
) -> list[nn.Module]:
    """Train networks on the set as its recipe says."""
    recipe = recipe_of(distilled)
    recipe = recipe.replace(loss=recipe.loss_for(distilled.label_kind))
    images, labels = distilled.tensors()
    return train_networks(
        images, labels, spec, recipe, seeds, num_classes=distilled.num_classes, device=device, **training
    )


def _row_of_features(
    distilled: DistilledDataset,
    test: RealData,
    how: KernelRecipe,
    spec: ModelSpec,
    networks: Sequence[nn.Module],
    seeds: Sequence[int],
    device: str,
    begun: float,
) -> ArchitectureResult:
    """Test the kernels of the features of networks that were trained on the set."""
    values = []
    for network in networks:
        body: Any = network.eval()
        if isinstance(body, Centred):
            body = body.model  # what it learned beyond its start has no features of its own
        values.append(_accuracy(NetworkFeatures([body]), distilled, test, how, device))
    return _row(f"{how.kernel['name']} of {spec.canonical()}", values, seeds, begun)


def _accuracy(kernel: Kernel, distilled: DistilledDataset, test: RealData, how: KernelRecipe, device: str) -> float:
    images, labels = (tensor.to(device) for tensor in distilled.tensors())
    rows = regression_rows(labels, distilled.num_classes, distilled.label_kind)
    if how.flip:
        images, rows = with_mirrored(images, rows)
    classifier = KernelClassifier(kernel, images, rows, how.regulariser)
    truth, parts = test.labels.cpu(), torch.arange(len(test)).split(CHUNK)
    outputs = (classifier.predict(test.batch(part).to(device), CHUNK).cpu() for part in parts)
    return sum(int(right(rows, truth[part])) for rows, part in zip(outputs, parts, strict=True)) / len(test)


def in_words(description: Mapping[str, Any]) -> str:
    """Return ``name(option=value,...)`` of a kernel's description."""
    options = ",".join(f"{key}={value}" for key, value in description.items() if key != "name" and value is not None)
    return f"{description['name']}({options})" if options else str(description["name"])


def _row(text: str, values: Sequence[float], seeds: Sequence[int], started: float) -> ArchitectureResult:
    return ArchitectureResult(
        architecture=text,
        accuracies=tuple(values),
        seeds=tuple(seeds),
        seconds=time.perf_counter() - started,
        steps=0,
    )
