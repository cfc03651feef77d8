"""What the real data tell about the weights of a student."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ddkit import augment
from ddkit.augment import Augmentation
from ddkit.base.precision import Precision
from ddkit.base.streams import Streams
from ddkit.data import RealData
from ddkit.errors import ConfigError
from ddkit.models import ModelSpec
from ddkit.networks import Network, RealSignal, Signal, real_signal
from ddkit.networks.flat import FlatNetwork
from ddkit.testing import toy_data


def ready(strategy: str = "none", compile: bool = False) -> tuple[RealSignal, RealData, FlatNetwork, Tensor]:
    """Return a signal, its data, a network as a function of its weights, and weights."""
    data, signal = toy_data(counts=(5, 9, 4)), RealSignal()
    signal.setup(data, Streams(0), augment.create(strategy), 4)
    network = Network(
        ModelSpec.parse("convnet:width=4,depth=1"), data.shape, data.num_classes, precision=Precision(compile=compile)
    )
    theta = torch.cat([weight.detach().flatten() for weight in network.module.parameters()])
    return signal, data, FlatNetwork(network), theta


def by_hand(flat: FlatNetwork, theta: Tensor, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, float]:
    """Return loss, gradient and error on a whole batch at once."""
    theta = theta.clone().requires_grad_()
    loss = flat.loss(theta, images, labels)
    (gradient,) = torch.autograd.grad(loss, theta)
    wrong = (flat.logits(theta.detach(), images).argmax(1) != labels).float().mean()
    return loss.detach(), gradient, float(wrong)


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("chunk", [256, 4])
def test_risk_of_the_whole_set_is_the_mean_over_it_in_any_chunks(
    chunk: int, compile: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(real_signal, "REAL_CHUNK", chunk)
    signal, data, flat, theta = ready(compile=compile)
    risk = signal.risk(flat, theta, 100, balanced=False, draws=None, stream="real")
    loss, gradient, wrong = by_hand(flat, theta, data.batch(torch.arange(18)), data.labels)
    torch.testing.assert_close(risk.loss, loss)
    torch.testing.assert_close(risk.gradient, gradient, rtol=1e-4, atol=1e-6)
    assert float(risk.error) == pytest.approx(wrong) and risk.error.device == theta.device
    assert not risk.loss.requires_grad and not risk.gradient.requires_grad


@pytest.mark.parametrize("balanced", [False, True])
def test_risk_sees_the_batch_that_its_stream_draws(balanced: bool) -> None:
    signal, _, flat, theta = ready()
    risks = [signal.risk(flat, theta, 6, balanced=balanced, draws=None, stream="real") for _ in range(2)]
    assert risks[0].loss != risks[1].loss
    signal.streams.load_state_dict({})
    images, labels = signal.balanced(2, "real") if balanced else signal.labelled(6, "real")
    torch.testing.assert_close(risks[0].loss, by_hand(flat, theta, images, labels)[0])


@pytest.mark.parametrize(("count", "expected"), [(1, [1, 1, 1]), (6, [2, 2, 2]), (13, [4, 4, 4]), (60, [5, 9, 4])])
def test_balanced_batches_hold_equally_many_of_every_class(count: int, expected: list[int]) -> None:
    signal, data, flat, theta = ready()
    signal.risk(flat, theta, count, balanced=True, draws=None, stream="real")
    signal.streams.load_state_dict({})
    images, labels = signal.balanced(max(1, round(count / 3)), "real")
    assert torch.bincount(labels).tolist() == expected
    assert len(images.unique(dim=0)) == len(data.images.unique(dim=0)[: len(images)]), "without replacement"


def test_one_draw_augments_the_whole_batch() -> None:
    signal, data, flat, theta = ready("crop_rotate")
    augmentation: Augmentation = signal.augmentation
    draws = augmentation.draw(1, torch.Generator().manual_seed(1))
    seen = augmentation.apply(data.batch(torch.arange(18)), draws, torch.zeros(18, dtype=torch.int64))
    risk = signal.risk(flat, theta, 18, balanced=False, draws=draws, stream="real")
    torch.testing.assert_close(risk.loss, by_hand(flat, theta, seen, data.labels)[0])
    plain = signal.risk(flat, theta, 18, balanced=False, draws=None, stream="real")
    assert not torch.isclose(plain.loss, risk.loss)


def test_judging_weighs_images_and_ignores_padding() -> None:
    _, data, flat, theta = ready()
    images, labels = data.batch(torch.arange(4)), torch.tensor([0, 1, 2, 0])
    weights = torch.tensor([0.5, 0.25, 0.0, 0.0])
    judged = flat.judge(theta, images, labels, weights)
    parts = F.cross_entropy(flat.logits(theta, images), labels, reduction="none")
    torch.testing.assert_close(judged.loss, (parts * weights).sum())
    shorter = flat.judge(theta, images[:2], labels[:2], weights[:2])
    torch.testing.assert_close(judged.gradient, shorter.gradient)
    assert judged.correct.tolist() == (flat.logits(theta, images).argmax(1) == labels).tolist()


def test_other_signals_need_not_tell() -> None:
    class Means(RealSignal):
        risk, balanced = Signal.risk, Signal.balanced

    signal, _, flat, theta = ready()
    other = Means()
    other.setup(signal.real, signal.streams, signal.augmentation, 4)
    with pytest.raises(ConfigError, match="does not tell the risk of a network on real images"):
        other.risk(flat, theta, 4, balanced=False, draws=None, stream="real")
    with pytest.raises(ConfigError, match="does not tell real images"):
        other.balanced(4, "real")
    with pytest.raises(ConfigError, match="does not tell 'risk'"):
        other.require("risk")
