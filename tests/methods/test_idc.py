"""IDC's presets: one optimiser step a pass equals the authors' step a class; settings follow the published table."""

from __future__ import annotations

import pytest
import torch

from ddkit import augment, methods
from ddkit.base.config import DistillConfig
from ddkit.base.streams import Streams
from ddkit.data import RealData
from ddkit.methods.idc import batched_momentum
from ddkit.models import ModelSpec
from ddkit.networks import FreshNetworks, Network, RealSignal
from ddkit.objectives import Context, GradientMatching
from ddkit.synthesis import MultiFormation
from ddkit.testing import CHECKS, toy_data

CLASSES, PASSES, RATE = 5, 4, 0.1


def named(name: str, shape: tuple[int, int, int], classes: int = 3) -> RealData:
    data = toy_data(shape=shape, counts=(2,) * classes)
    return RealData.from_tensors(data.images, data.labels, name=name)


def configured(
    name: str, shape: tuple[int, int, int], ipc: int, method: str = "idc", classes: int = 3
) -> DistillConfig:
    return methods.get(method).configure(named(name, shape, classes), ipc)


def quadratic() -> tuple[torch.Tensor, torch.Tensor]:
    """Curvatures and minima of one quadratic loss per class and pass: (PASSES, CLASSES, 3) each."""
    generator = torch.Generator().manual_seed(0)
    shape = (PASSES, CLASSES, 3)
    return tuple(torch.rand(shape, generator=generator, dtype=torch.float64) for _ in range(2))


def class_by_class(start: torch.Tensor) -> torch.Tensor:
    """One step of SGD with momentum 0.5 per class, each on the whole tensor."""
    codes = start.clone().requires_grad_(True)
    optimiser = torch.optim.SGD([codes], lr=RATE, momentum=0.5)
    for curvature, minimum in zip(*quadratic(), strict=True):
        for number in range(CLASSES):
            optimiser.zero_grad(set_to_none=False)
            (curvature[number] * (codes[number] - minimum[number]) ** 2).sum().backward()
            optimiser.step()
    return codes.detach()


def pass_by_pass(start: torch.Tensor) -> torch.Tensor:
    """The preset's optimiser: one step per pass on all classes."""
    codes = start.clone().requires_grad_(True)
    settings = batched_momentum(RATE, CLASSES)
    optimiser = torch.optim.SGD([codes], lr=settings["lr"], momentum=settings["momentum"])
    for curvature, minimum in zip(*quadratic(), strict=True):
        optimiser.zero_grad()
        (curvature * (codes - minimum) ** 2).sum().backward()
        optimiser.step()
    return codes.detach()


def test_one_step_a_pass_equals_one_step_a_class() -> None:
    """Exact for the first class; the others end their last pass with fewer steps of drift."""
    start = torch.randn(CLASSES, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    authors, preset = class_by_class(start), pass_by_pass(start)
    torch.testing.assert_close(preset[0], authors[0], rtol=0, atol=1e-12)
    assert float((preset[1:] - authors[1:]).abs().max()) > 1e-3
    assert float((preset - start).abs().min()) > 1e-3


def matching(metric: str, seed: int = 0) -> tuple[GradientMatching, MultiFormation]:
    """IDC's objective in float64 on colour data that factor 2 cuts with padding."""
    data, streams = toy_data(shape=(3, 17, 16), counts=(9, 12)), Streams(seed)
    augmentation, signal, networks = augment.create("color+crop+cutout"), RealSignal(), FreshNetworks()
    network = Network(ModelSpec.parse("convnet:width=4,depth=2"), data.shape, data.num_classes)
    network.module.to(torch.float64)
    formation = MultiFormation(data.num_classes, 2, data.shape, batch_images=6).to(torch.float64)
    formation.initialise(data, "real", torch.Generator().manual_seed(seed))
    objective = GradientMatching(metric, real_batch=5, weights="convolutions")
    signal.setup(data, streams, augmentation, objective.real_batch)
    context = Context(data.num_classes, signal, network, augmentation, streams, networks=networks)
    networks.setup(context)
    objective.setup(context, formation)
    return objective, formation


def loss_and_gradient(objective: GradientMatching, formation: MultiFormation) -> tuple[float, torch.Tensor]:
    """One backward pass; the same random draws in every call."""
    objective.context.streams.load_state_dict({})
    formation.zero_grad()
    loss = objective.backward(formation)["loss"]
    return loss, formation.images.grad.clone()


@pytest.mark.parametrize("metric", ["mse", "l1"])
def test_gradient_through_decoder_augmentation_and_network_is_exact(metric: str) -> None:
    objective, formation = matching(metric)
    gradient = loss_and_gradient(objective, formation)[1]
    direction = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    direction /= direction.norm()
    start, losses = formation.images.detach().clone(), []
    for step in (1e-6, -1e-6):
        with torch.no_grad():
            formation.images.copy_(start + step * direction)
        losses.append(loss_and_gradient(objective, formation)[0])
    slope = (losses[0] - losses[1]) / 2e-6
    assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-6)
    assert float(gradient.norm()) > 1e-3


@pytest.mark.parametrize(
    ("name", "shape", "metric", "rate", "images"),
    [
        ("cifar10", (3, 32, 32), "mse", 5e-3, 2000),
        ("cifar100", (3, 32, 32), "mse", 5e-3, 2000),
        ("svhn", (3, 32, 32), "mse", 5e-3, 500),
        ("mnist", (1, 28, 28), "l1", 1e-4, 500),
        ("fashionmnist", (1, 28, 28), "l1", 1e-4 * (28 / 32) ** 2, 500),
        ("sets/CIFAR10.npz", (3, 32, 32), "mse", 5e-3, 2000),
        ("holiday.npz", (3, 16, 64), "mse", 5e-3, 500),
        ("digits", (1, 8, 8), "mse", 5e-3, 500),
    ],
)
def test_published_settings(name: str, shape: tuple[int, int, int], metric: str, rate: float, images: int) -> None:
    config = configured(name, shape, ipc=10)
    assert config.steps == 200_000
    assert config.objective.options == {"metric": metric, "weights": "convolutions", "real_batch": 64}
    assert config.networks.options["images"] == images and config.networks.options["life"] == 100
    assert config.optimiser.lr == pytest.approx(rate * (2 - 2**-2)) and config.optimiser.momentum == 2**-3
    assert config.synthesis.options["factor"] == 2 and config.init == "real"
    one = configured(name, shape, ipc=1)
    assert one.optimiser.lr == pytest.approx(config.optimiser.lr / 10)


def test_mnist_leaves_cutmix_and_cutout_out_with_several_formations() -> None:
    several, plain = configured("mnist", (1, 28, 28), 10), configured("mnist", (1, 28, 28), 10, "idc-i")
    assert several.augmentation == "color+crop" and plain.augmentation == "color+crop+cutout"
    assert several.networks.options["cutmix"] == 0 and plain.networks.options["cutmix"] == 0.5
    assert several.recipe.options == {"cutmix": 0.0} and plain.recipe.options == {}
    assert configured("fashionmnist", (1, 28, 28), 10).networks.options["cutmix"] == 0.5


def test_svhn_with_one_plain_image_is_evaluated_otherwise() -> None:
    special = configured("svhn", (3, 32, 32), 1, "idc-i").recipe
    assert special.options == {"cutmix": 0.0, "augmentation": "color+crop+cutout+scale+rotate"}
    for usual in (configured("svhn", (3, 32, 32), 10, "idc-i"), configured("svhn", (3, 32, 32), 1)):
        assert usual.recipe.options == {} and usual.networks.options["cutmix"] == 0.5


def test_large_images_take_the_settings_of_imagenet() -> None:
    config = configured("birds", (3, 224, 224), 20)
    assert config.steps == 50_000 and config.objective.options["metric"] == "l1"
    assert config.synthesis.options == {"factor": 3, "decode_type": "bound", "batch_images": 128}
    assert config.optimiser.lr == pytest.approx(3e-3 * 2 * (2 - 2**-2))
    assert config.networks.options["pretrain_epochs"] == 10 and config.networks.options["cutmix"] == 1
    assert config.recipe.options == {"cutmix": 1.0, "epochs": 1000}
    epochs = [configured("birds", (3, 224, 224), ipc, "idc-i").recipe.options["epochs"] for ipc in (1, 10, 50, 501)]
    assert epochs == [3000, 2000, 1500, 300]
    assert configured("birds", (3, 224, 224), 50).recipe.options["epochs"] == 1000
    many = configured("birds", (3, 128, 128), 10, classes=100)
    assert many.recipe.options["epochs"] == 600 and many.objective.options["metric"] == "l1"


@pytest.mark.parametrize("decode_type", ["multi", "bound"])
@pytest.mark.parametrize("check", ["resumed_run_equals_uninterrupted_run", "save_load_export", "labels_and_values"])
def test_other_types_of_decoding_keep_the_contract(check: str, decode_type: str) -> None:
    CHECKS[check]("idc", {"synthesis": {"decode_type": decode_type, "batch_images": 5}})
    assert methods.get("idc").learns != methods.get("idc-i").learns
