"""Is a network that mixes records, or remembers them, refused in every kind of private run?"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ddkit import models
from ddkit.data import RealData
from ddkit.errors import ConfigError
from ddkit.integrations.private import PrivacyBudget, PrivateDistiller, Queries
from ddkit.integrations.private.baselines import dp_sgd_network
from ddkit.integrations.private.gradients import require_separate_gradients
from ddkit.models import ModelSpec
from ddkit.networks import Network
from tests.integrations.private_small import TINY, records, wall, with_public_constants


class Own(nn.Module):
    """A small network whose features and logits pass through a function of the whole batch."""

    seen: Tensor

    def __init__(self, shape: tuple[int, int, int], num_classes: int, kind: str = "plain") -> None:
        super().__init__()
        self.kind = kind
        self.body = nn.Linear(shape[0] * shape[1] * shape[2], 6)
        self.classifier = nn.Linear(6, num_classes)
        self.calls = 0
        self.register_buffer("seen", torch.zeros(6))
        self.kept = torch.zeros(6)

    def features(self, images: Tensor) -> Tensor:
        rows = self.body(images.flatten(1)).tanh()
        return self.mixed(rows) if self.kind != "forward" else rows

    def forward(self, images: Tensor) -> Tensor:
        rows = self.features(images)
        if self.kind == "forward":
            rows = rows - rows.mean(0)
        logits: Tensor = self.classifier(rows)
        return logits

    def mixed(self, rows: Tensor) -> Tensor:
        self.calls += 1
        place = torch.arange(len(rows), dtype=rows.dtype)[:, None]
        if self.kind == "some-weights" and float(self.body.weight.detach()[0, 0]) < 0:
            return rows
        if self.kind == "buffer":
            before = self.seen.clone()
            self.seen.mul_(0.9).add_(0.1 * rows.detach().mean(0))
            return rows - before
        if self.kind == "memory":
            before, self.kept = self.kept, rows.detach().mean(0)
            return rows - before
        if self.kind == "silent-buffer":
            self.seen.add_(rows.detach().sum(0))
        return {
            "standardised": lambda: (rows - rows.mean(0)) / (rows.std(0, unbiased=False) + 1e-3),
            "some-weights": lambda: rows - rows.mean(0),
            "weak": lambda: rows + 1e-3 * rows.mean(0),
            "attention": lambda: torch.softmax(rows @ rows.T, dim=1) @ rows,
            "place": lambda: rows + 0.01 * place,
            "size": lambda: rows * (1 + 0.1 * (len(rows) > 20)),
            "largest": lambda: rows / rows.abs().amax(),
            "median": lambda: rows - rows.median(0).values,
            "random": lambda: rows + 0.1 * torch.randn_like(rows),
            "calls": lambda: rows * (1 + 0.01 * self.calls),
        }.get(self.kind, lambda: rows)()


@pytest.fixture(autouse=True)
def own_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.registry._items, "own", Own)


MIXERS = (
    "standardised",
    "weak",
    "attention",
    "place",
    "size",
    "largest",
    "median",
    "random",
    "calls",
    "buffer",
    "memory",
    "silent-buffer",
)


def fit(method: str, model: str, budget: PrivacyBudget | None = None, **options: Any) -> PrivacyBudget:
    budget = budget or PrivacyBudget(2, 1e-5, "rdp")
    settings = {"ipc": 1, "accountant": "rdp", "method": method, **TINY[method], "model": model, **options}
    PrivateDistiller(budget=budget, **settings).fit(records())
    return budget


@pytest.mark.parametrize("kind", MIXERS)
@pytest.mark.parametrize("method", ["dp-dm", "dp-dm-iterated", "psg"])
def test_a_network_that_mixes_or_remembers_records_is_refused_unpaid(method: str, kind: str) -> None:
    budget = PrivacyBudget(2, 1e-5, "rdp")
    with pytest.raises(ConfigError, match=r"private query needs every record on its own") as error:
        fit(method, f"own:kind={kind}", budget)
    assert "\n" not in str(error.value)
    assert budget.ledger == ()


@pytest.mark.parametrize("method", ["dp-dm", "dp-dm-iterated", "psg"])
def test_a_network_of_ones_own_that_takes_every_record_by_itself_is_accepted(method: str) -> None:
    assert fit(method, "own").ledger


def test_what_forward_does_beside_features_counts_where_gradients_are_asked() -> None:
    assert fit("dp-dm", "own:kind=forward").ledger
    with pytest.raises(ConfigError, match="mixes the records"):
        fit("psg", "own:kind=forward")


@pytest.mark.parametrize(("method", "options"), [("dp-dm", {"networks": 24}), ("dp-dm-iterated", {"steps": 30})])
def test_every_network_that_is_drawn_is_tried(method: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="mixes the records"):
        fit(method, "own:kind=some-weights", **options)


@pytest.mark.parametrize(("kind", "refused"), [("plain", False), ("standardised", True)])
def test_random_features_of_a_kernel_are_tried_as_well(kind: str, refused: bool) -> None:
    made = PrivateDistiller(2, method="dp-kip", ipc=1, accountant="rdp", **TINY["dp-kip"])
    made.overrides = {"model": f"own:kind={kind}", "networks": {"name": "random-features", "bodies": 2}}
    with pytest.raises(ConfigError, match="mixes the records") if refused else nullcontext():
        made.fit(records())


def test_augmentation_drawn_by_place_is_refused() -> None:
    with pytest.raises(ConfigError, match="private query needs every record on its own"):
        fit("dp-kip", "convnet", augmentation="flip")


@pytest.mark.parametrize(
    "rows",
    [
        lambda images, _: (images - images.mean()).flatten(1),
        lambda images, labels: images.flatten(1) * (1 + labels.float().mean()),
        lambda images, _: images.flatten(1).flip(0),
        lambda images, _: images.flatten(1) + 1e-6 * images.mean(),
        lambda images, _: 1e3 * images.flatten(1) * (1 + 0.1 * images.mean().tanh()),
    ],
    ids=["mean", "labels", "order", "faint", "length alone, beyond the bound"],
)
def test_a_raw_query_is_tried_before_it_is_paid_for(rows: Callable[[Tensor, Tensor], Tensor]) -> None:
    private = wall()
    with pytest.raises(ConfigError, match="mixes the records"):
        private.noisy_sum(rows, clip=100.0, sigma=1.0)
    assert private.plan.made == 0


def test_a_query_that_mixes_later_is_refused_then() -> None:
    private, made = wall(queries=Queries(1.0, 1.0, 5)), []

    def rows(images: Tensor, labels: Tensor) -> Tensor:
        return images.flatten(1) - (images.mean() if len(made) > 2 else 0)

    for _ in range(3):
        made.append(private.noisy_sum(rows, clip=1.0, sigma=1.0))
    with pytest.raises(ConfigError, match="mixes the records"):
        private.noisy_sum(rows, clip=1.0, sigma=1.0)
    assert private.plan.made == 3


def test_a_dp_sgd_classifier_is_tried_before_and_after_training() -> None:
    real = records(per_class=20)
    with pytest.raises(ConfigError, match="mixes the records"):
        dp_sgd_network(real, real, 4.0, 1e-5, model="own:kind=standardised", epochs=1, accountant="rdp")
    assert dp_sgd_network(real, real, 4.0, 1e-5, model="own", epochs=1, batch=10, accountant="rdp").epsilon <= 4.04


@pytest.mark.parametrize("model", ["convnet:width=8,depth=2", "mlp:width=16", "convnet:width=8,depth=2,norm=group"])
def test_gradients_of_records_do_not_depend_on_the_size_of_the_batch(model: str) -> None:
    # Opacus gave wrong gradients of channels-last activations for every batch but one of a single record.
    network = Network(ModelSpec.parse(model), (1, 8, 8), 3)
    for number in range(3):
        network.reset(number)
        require_separate_gradients(network, with_public_constants(records()), number)


@pytest.mark.parametrize("model", ["lenet", "vgg11:norm=instance", "resnet10:norm=instance", "convnet:norm=none"])
def test_models_of_ddkit_are_no_false_alarm(model: str) -> None:
    network = Network(ModelSpec.parse(model), (3, 32, 32), 10)
    images = torch.rand(40, 3, 32, 32).mul(255).to(torch.uint8)
    real = RealData.from_tensors(images, torch.arange(40) % 10)
    private = wall(real)

    def rows(shown: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            return network.features(shown)

    private.noisy_sum(rows, clip=1.0, sigma=1.0)
    assert private.plan.made == 1
