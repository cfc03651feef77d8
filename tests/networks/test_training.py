"""Training a matching network: plain SGD on shuffled batches, padded batches included, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ddkit import augment
from ddkit.models import ModelSpec
from ddkit.networks import Network
from ddkit.networks.training import padded, train_epochs

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
