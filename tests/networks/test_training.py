"""Training a matching network: plain SGD on shuffled batches, padded batches included, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ddkit import augment
from ddkit.models import ModelSpec
from ddkit.networks import Network
from ddkit.networks.training import padded, still, train_epochs

SHAPE = (1, 8, 8)


def data(n: int, soft: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(n, *SHAPE, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 3, (n,), generator=generator)
    return images, (0.8 * F.one_hot(targets, 3) + 0.2 / 3).double() if soft else targets


def network(norm: str = "instance") -> Network:
    net = Network(ModelSpec.parse(f"convnet:width=4,depth=2,norm={norm}"), SHAPE, 3)
    net.module.double()
    net.reset(5)
    return net


def reference(net: Network, images, targets, epochs: int, lr: float, size: int):
    """The same training as anyone would write it: torch.optim.SGD and partial batches as they are."""
    model = net.spec.build(SHAPE, 3, 5).double().train()
    optimiser = torch.optim.SGD(model.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(9)
    for _ in range(epochs):
        for index in torch.randperm(len(images), generator=generator).split(min(size, len(images))):
            optimiser.zero_grad()
            F.cross_entropy(model(images[index]), targets[index]).backward()
            optimiser.step()
    return model


def trained(net: Network, images, targets, epochs: int, lr: float, size: int, strategy: str = "none") -> Network:
    train_epochs(
        net,
        images,
        targets,
        epochs=epochs,
        lr=lr,
        batch_size=size,
        augmentation=augment.create(strategy),
        generator=torch.Generator().manual_seed(9),
    )
    return net


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(("count", "size"), [(8, 4), (7, 4), (5, 4), (3, 256)])
def test_weights_equal_those_of_plain_sgd_on_unpadded_batches(norm, soft, count, size) -> None:
    images, targets = data(count, soft)
    if norm == "batch" and count % size == 1:
        images, targets = data(count + 1, soft)
    net = trained(network(norm), images, targets, 3, 0.1, size)
    expected = reference(net, images, targets, 3, 0.1, size)
    for name, weight in net.module.state_dict().items():
        torch.testing.assert_close(weight, expected.state_dict()[name], rtol=1e-10, atol=1e-12)


def test_every_epoch_shuffles_anew_and_only_the_given_generator_is_used() -> None:
    images, targets = data(7)
    before = torch.get_rng_state()
    one, two = (trained(network(), images, targets, 2, 0.1, 4) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(one.module.parameters(), two.module.parameters(), strict=True):
        assert torch.equal(a, b)


def test_augmented_training_differs_from_plain_training() -> None:
    images, targets = data(8)
    plain, other = (trained(network(), images, targets, 2, 0.1, 4, s) for s in ("none", "crop"))
    pairs = zip(plain.module.parameters(), other.module.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


def test_padding_appends_zeros() -> None:
    assert padded(torch.ones(2, 2), 3).tolist() == [[1, 1], [1, 1], [0, 0]]
    x = torch.ones(2)
    assert padded(x, 2) is x


def by_torch(images, targets, *, momentum=0.0, decay=0.0, cutmix=0.0, epochs=3, lr=0.1, size=4):
    """SGD as torch runs it, on partial batches as they are."""
    model = network().spec.build(SHAPE, 3, 5).double().train()
    optimiser = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=decay)
    generator = torch.Generator().manual_seed(9)
    for _ in range(epochs):
        for index in torch.randperm(len(images), generator=generator).split(size):
            batch, labels = images[index], targets[index]
            if cutmix:
                batch, labels = augment.cutmix(batch, labels, 3, cutmix, generator)
            optimiser.zero_grad()
            F.cross_entropy(model(batch), labels).backward()
            optimiser.step()
    return model


def train(net: Network, images, targets, generator: torch.Generator | None = None, **options) -> Network:
    train_epochs(
        net,
        images,
        targets,
        **{"epochs": 3, "lr": 0.1, "batch_size": 4, **options},
        augmentation=augment.create("none"),
        generator=generator or torch.Generator().manual_seed(9),
    )
    return net


def flat(net: Network) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in net.module.parameters()])


@pytest.mark.parametrize(("momentum", "decay"), [(0.9, 0.0), (0.0, 0.05), (0.9, 0.05)])
@pytest.mark.parametrize("cutmix", [0.0, 0.5, 1.0])
def test_momentum_weight_decay_and_cutmix_equal_torch_sgd(momentum: float, decay: float, cutmix: float) -> None:
    images, targets = data(7)
    net = train(network(), images, targets, momentum=momentum, weight_decay=decay, cutmix=cutmix)
    expected = by_torch(images, targets, momentum=momentum, decay=decay, cutmix=cutmix)
    for mine, theirs in zip(net.module.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("option", ["momentum", "weight_decay", "cutmix"])
def test_every_option_changes_the_training(option: str) -> None:
    images, targets = data(7)
    plain, other = train(network(), images, targets), train(network(), images, targets, **{option: 0.5})
    assert (flat(plain) - flat(other)).norm() > 1e-3


def test_plain_training_is_one_scaled_addition_per_step() -> None:
    """Bit for bit in float32: options of zero take no part in the arithmetic."""
    images, targets = (tensor for tensor in data(7))
    images = images.float()
    nets = [Network(ModelSpec.parse("convnet:width=4,depth=2"), SHAPE, 3) for _ in range(2)]
    for net in nets:
        net.reset(5)
    train(nets[0], images, targets)
    generator, net = torch.Generator().manual_seed(9), nets[1]
    parameters = list(net.module.parameters())
    for _ in range(3):
        for index in torch.randperm(7, generator=generator).split(4):
            share = padded(torch.full((len(index),), 1 / len(index)), 4)
            index = padded(index, 4)
            gradients = torch.autograd.grad(net.loss(images[index], targets[index], share), parameters)
            with torch.no_grad():
                torch._foreach_add_(parameters, gradients, alpha=-0.1)
    assert torch.equal(flat(nets[0]), flat(net))


def test_velocity_carries_momentum_into_the_next_call() -> None:
    images, targets = data(7)
    whole = train(network(), images, targets, epochs=2, momentum=0.9)
    carried, forgotten = network(), network()
    velocity = still(carried)
    for net, kept in ((carried, velocity), (forgotten, None)):
        generator = torch.Generator().manual_seed(9)
        for _ in range(2):
            train(net, images, targets, generator, epochs=1, momentum=0.9, velocity=kept)
    assert torch.equal(flat(carried), flat(whole))
    assert not torch.equal(flat(forgotten), flat(whole))
    assert all(v.abs().sum() > 0 for v in velocity)


def test_cutmix_mixes_soft_targets_too() -> None:
    images, targets = data(7, soft=True)
    net = train(network(), images, targets, cutmix=1.0)
    expected = by_torch(images, targets, cutmix=1.0)
    for mine, theirs in zip(net.module.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
