"""What does recipe ``private`` measure for one row and one seed?"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddkit.base.files import write_text
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.distilled.privacy import Statement
from ddkit.data.real import RealData
from ddkit.engine.distiller import Distiller
from ddkit.evaluation.kernel import evaluate_kernel
from ddkit.integrations.private.baselines import PrivateClassifier, dp_sgd_linear, dp_sgd_network
from ddkit.integrations.private.distiller import PrivateDistiller
from ddkit.integrations.private.independent import Queries, independent_epsilon
from ddkit.integrations.private.merf import dp_merf
from ddkit.integrations.private.methods import METHODS
from ddkit.models.spec import ModelSpec
from ddkit.training.accuracy import accuracies
from ddkit.training.named import recipe as recipe_called
from ddkit.training.recipe import TrainingRecipe
from ddkit.training.train import train_networks

BASELINES = ("dm", "dp-sgd-linear", "dp-sgd-cnn", "dp-merf")
_CLASSIFIERS = ("dp-sgd-linear", "dp-sgd-cnn")


@dataclass(frozen=True)
class Cell:
    """A row of the table.

    Args:
        name: method or baseline.
        epsilon: claimed; None without privacy.
    """

    name: str
    epsilon: float | None

    @property
    def title(self) -> str:
        """What it is called while it runs."""
        return f"{self.name}, no privacy" if self.epsilon is None else f"{self.name}, epsilon {self.epsilon:g}"

    @property
    def distils(self) -> bool:
        """Whether it makes a small set with ddkit."""
        return self.name == "dm" or self.name in METHODS

    @property
    def classifies(self) -> bool:
        """Whether it is a classifier that was trained privately, and releases no set."""
        return self.name in _CLASSIFIERS


@dataclass(frozen=True)
class Outcome:
    """One seed of a row.

    Args:
        accuracy: on the test set, in [0, 1], the mean over networks.
        seconds: to make the set or the classifier, accounting included; a process counts the same queries only once.
        epsilon: by Opacus's accountant.
        independent: epsilon without Opacus.
        replaced: epsilon where a record is replaced, at most.
        sigma: noise multiplier.
    """

    accuracy: float
    seconds: float
    epsilon: float | None = None
    independent: float | None = None
    replaced: float | None = None
    sigma: float | None = None


def measure(
    cell: Cell, settings: Mapping[str, Any], train: RealData, test: RealData, folder: Path, seed: int
) -> Outcome:
    """Make a set, or a classifier, and test it.

    Args:
        cell: the row.
        settings: of the recipe.
        train: the records.
        test: touched for the accuracy alone.
        folder: keeps the sets.
        seed: of everything public.
    """
    started = time.monotonic()
    if cell.classifies:
        classifier = _classifier(cell, settings, train, test, seed)
        rate = _rate(cell, settings, train)
        independent, _ = independent_epsilon([Queries(classifier.sigma, rate, classifier.steps)], classifier.delta)
        seconds = time.monotonic() - started
        return Outcome(classifier.accuracy, seconds, classifier.epsilon, independent, sigma=classifier.sigma)
    distilled = _set(cell, settings, train, folder, seed)
    seconds = time.monotonic() - started
    accuracy = _accuracy(cell, settings, distilled, test, seed)
    card = distilled.metadata.get("privacy", {})
    keys = {"epsilon": "epsilon", "independent": "independent_epsilon", "replaced": "replace_one_epsilon"}
    figures = {name: card.get(key) for name, key in keys.items()}
    return Outcome(accuracy, seconds, sigma=card.get("noise_multiplier"), **figures)


def set_folder(folder: Path, cell: Cell, seed: int) -> Path:
    """Return where the set of a row and seed is kept."""
    epsilon = "none" if cell.epsilon is None else f"{cell.epsilon:.12g}"
    return folder / f"{cell.name}-{epsilon}-{seed}"


def _classifier(
    cell: Cell, settings: Mapping[str, Any], train: RealData, test: RealData, seed: int
) -> PrivateClassifier:
    assert cell.epsilon is not None
    common = {"accountant": settings["accountant"], "seed": seed}
    if cell.name == "dp-sgd-linear":
        return dp_sgd_linear(train, test, cell.epsilon, settings["delta"], **settings["linear"], **common)
    return dp_sgd_network(train, test, cell.epsilon, settings["delta"], **settings["cnn"], **common)


def _rate(cell: Cell, settings: Mapping[str, Any], train: RealData) -> float:
    """Return the sampling rate that the classifier uses."""
    if cell.name == "dp-sgd-linear":
        return min(settings["linear"]["batch"], len(train) // 2) / len(train)
    size = min(settings["cnn"]["batch"], -(-len(train) // 4))
    return 1 / -(-len(train) // size)


def _set(cell: Cell, settings: Mapping[str, Any], train: RealData, folder: Path, seed: int) -> DistilledDataset:
    """Make the set of a row and seed, and keep it."""
    out = set_folder(folder, cell, seed)
    if cell.name == "dp-merf":
        assert cell.epsilon is not None
        common = {"accountant": settings["accountant"], "seed": seed}
        made = dp_merf(train, cell.epsilon, settings["delta"], **settings["merf"], **common)
        made.save(out)
        for name, text in Statement(made.metadata["privacy"]).files().items():
            write_text(out / name, text)
        return made
    steps = settings["steps"].get(cell.name)
    if cell.name == "dm":
        plain = Distiller(
            "dm",
            settings["ipc"],
            seed=seed,
            model=settings["model"],
            compile=False,
            **({} if steps is None else {"steps": steps}),
        )
        made = plain.fit(train)
        made.save(out)
        return made
    one_shot = METHODS[cell.name].batch is None
    options: dict[str, Any] = {"label_counts": settings["label_counts"]} if one_shot else {}
    if cell.name != "dp-kip":
        options["model"] = settings["model"]
    distiller = PrivateDistiller(
        cell.epsilon,
        settings["delta"],
        method=cell.name,
        ipc=settings["ipc"],
        steps=steps,
        networks=settings["networks"],
        accountant=settings["accountant"],
        seed=seed,
        **options,
    )
    return distiller.fit(train, out=out)


def _equally_long(recipe: TrainingRecipe, usual: int, images: int) -> TrainingRecipe:
    """Return the recipe with as many steps on ``images`` as it has on the ``usual`` number of them."""
    return recipe.replace(epochs=max(1, round(recipe.epochs * recipe.steps(usual) / recipe.steps(images))))


def _accuracy(cell: Cell, settings: Mapping[str, Any], distilled: DistilledDataset, test: RealData, seed: int) -> float:
    """Return the mean accuracy of networks trained on a set; of its own kernel for kernel regression."""
    judged = test.with_preprocessing(distilled.preprocessing)
    if distilled.metadata.get("kernel") is not None:
        return float(evaluate_kernel(distilled, judged, repeats=1).rows[0].mean)
    how = settings["evaluation"]
    changes = {"epochs": how["epochs"], "lr": how["lr"]}
    if how["protocol"] == "dsa":
        recipe = recipe_called("dsa", test.name, **changes)
    else:
        recipe = TrainingRecipe(name="private", schedule="cosine", **changes)
    images, labels = distilled.tensors()
    recipe = _equally_long(recipe, settings["ipc"] * distilled.num_classes, len(images))
    seeds = [1000 * seed + number for number in range(how["networks"])]
    networks = train_networks(
        images, labels, ModelSpec.parse(how["model"]), recipe, seeds, num_classes=distilled.num_classes
    )
    scores = accuracies(networks, judged)
    return sum(scores) / len(scores)
