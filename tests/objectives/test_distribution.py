"""Distribution matching against a plain loop over classes, finite differences and closed forms, in float64."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ddkit import models
from ddkit.errors import ConfigError
from ddkit.objectives import DistributionMatching
from ddkit.testing import toy_data

from .conftest import central_difference, gradient_of

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from reference import looped_distribution_loss


class Flatten(nn.Module):
    """The identity as a feature extractor."""

    def __init__(self, shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        size = shape[0] * shape[1] * shape[2]
        self.classifier = nn.Linear(size, num_classes)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(images))


def looped(objective, synthesizer, data, strategy: str = "none"):
    """The same step, class by class, from the same random streams."""
    context = objective.context
    context.streams.load_state_dict({})
    network = context.networks.current()
    draws = context.augmentation.draw(data.num_classes, context.streams("augmentation"))
    images, labels = data.sample(range(data.num_classes), objective.real_batch, context.streams("real"))
    images = context.augmentation.apply(images, draws, labels).double()
    real = [images[labels == c] for c in range(data.num_classes)]
    pixels = synthesizer.images.detach().clone().requires_grad_()
    synthetic = [pixels[synthesizer.classes == c] for c in range(data.num_classes)]
    if strategy != "none":
        ones = [
            context.augmentation.apply(s, draws.select([c]), torch.zeros(len(s), dtype=torch.int64))
            for c, s in enumerate(synthetic)
        ]
        synthetic = ones
    loss = looped_distribution_loss(network.module, real, synthetic)
    return loss.item(), torch.autograd.grad(loss, pixels)[0]


@pytest.mark.parametrize("chunk", [None, 1, 2, 3])
@pytest.mark.parametrize("strategy", ["none", "color_crop_cutout_flip_scale_rotate"])
def test_batched_loss_and_gradient_equal_the_loop_over_classes(bench, chunk, strategy) -> None:
    objective, synthesizer, data = bench(DistributionMatching(real_batch=6, class_chunk=chunk), strategy=strategy)
    loss, gradient = gradient_of(objective, synthesizer)
    expected_loss, expected_gradient = looped(objective, synthesizer, data, strategy)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-12)


def test_streamed_real_features_equal_one_pass(bench, monkeypatch) -> None:
    import ddkit.networks.real_signal as signal

    objective, synthesizer, _ = bench(DistributionMatching(real_batch=6))
    whole = gradient_of(objective, synthesizer)
    monkeypatch.setattr(signal, "REAL_CHUNK", 4)
    streamed = gradient_of(objective, synthesizer)
    assert streamed[0] == pytest.approx(whole[0], rel=1e-12)
    torch.testing.assert_close(streamed[1], whole[1], rtol=1e-9, atol=1e-12)


def test_gradient_equals_central_differences(bench) -> None:
    objective, synthesizer, _ = bench(
        DistributionMatching(real_batch=5), model="convnet:width=4,depth=2,activation=swish"
    )
    _, gradient = gradient_of(objective, synthesizer)
    for index in [(0, 0, 1, 2), (2, 0, 4, 4), (5, 0, 7, 0)]:
        assert gradient[index].item() == pytest.approx(
            central_difference(objective, synthesizer, index, 1e-6), rel=1e-6
        )


def test_identical_batches_have_no_loss(bench) -> None:
    data = toy_data(counts=(4, 4, 4))
    objective, synthesizer, _ = bench(DistributionMatching(real_batch=4), data=data, ipc=4)
    with torch.no_grad():
        synthesizer.images.copy_(torch.cat([data.batch(index) for index in data.class_index]))
    assert gradient_of(objective, synthesizer)[0] < 1e-24


def test_one_step_of_half_ipc_on_raw_pixels_reaches_the_class_means(bench, monkeypatch) -> None:
    monkeypatch.setitem(models.registry._items, "test-flatten", Flatten)
    data = toy_data(counts=(5, 5, 5))
    objective, synthesizer, _ = bench(DistributionMatching(real_batch=5), data=data, ipc=2, model="test-flatten")
    _, gradient = gradient_of(objective, synthesizer)
    means = torch.stack([data.batch(index).double().mean(0) for index in data.class_index])
    own = synthesizer.images.detach().view(3, 2, *data.shape).mean(1)
    expected = (2 / 2 * (own - means)).repeat_interleave(2, dim=0)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)
    with torch.no_grad():
        synthesizer.images -= gradient * (2 / 2)
    assert gradient_of(objective, synthesizer)[0] < 1e-24


def test_real_side_leaves_no_gradient_on_the_network(bench) -> None:
    objective, synthesizer, _ = bench(DistributionMatching(real_batch=5))
    gradient_of(objective, synthesizer)
    assert all(p.grad is None for p in objective.context.network.module.parameters())


def test_learned_labels_are_refused_with_the_reason(bench) -> None:
    with pytest.raises(ConfigError, match="does not look at labels"):
        bench(DistributionMatching(), labels="learned")


def test_class_chunks_with_batch_norm_are_refused(bench) -> None:
    with pytest.raises(ConfigError, match="batch norm"):
        bench(DistributionMatching(class_chunk=1), model="convnet:width=4,depth=2,norm=batch")


def test_batch_norm_statistics_mix_classes(bench) -> None:
    objective, synthesizer, data = bench(DistributionMatching(real_batch=5), model="convnet:width=4,depth=2,norm=batch")
    loss, _ = gradient_of(objective, synthesizer)
    separate, _ = looped(objective, synthesizer, data)
    assert loss > 0 and abs(loss - separate) > 1e-3 * loss


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="real_batch=0"):
        DistributionMatching(real_batch=0)
    with pytest.raises(ConfigError, match="class_chunk=0"):
        DistributionMatching(class_chunk=0)
