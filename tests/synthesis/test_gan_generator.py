"""The generator of GAN codes: sizes, shapes, where the class enters, and its file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ddkit.errors import ArtifactError, ConfigError
from ddkit.models.spec import seeded
from ddkit.synthesis.gan import Generator, load_generator, save_generator
from ddkit.synthesis.gan.generator import Discriminator, doubled, rebuild

Shape = tuple[int, int, int]


def built(shape: Shape = (1, 8, 8), num_classes: int = 3, seed: int = 1, **sizes: int) -> Generator:
    """Return a generator with random weights, statistics and class embeddings, in eval mode."""
    with seeded(seed):
        generator = Generator(shape, num_classes, **sizes)
        for tensor in (*generator.parameters(), *generator.buffers()):
            nn.init.uniform_(tensor.data, 0.1, 0.5) if tensor.dim() == 1 else nn.init.normal_(tensor.data, std=0.3)
    return generator.eval().requires_grad_(False)


def drawn(generator: Generator, count: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    codes = torch.randn(count, generator.code_size, generator=torch.Generator().manual_seed(seed))
    return codes.to(generator.linear.weight), torch.arange(count) % generator.num_classes


def test_ten_classes_of_8x8_images_take_19841_parameters_and_160_statistics() -> None:
    generator = Generator((1, 8, 8), 10)
    assert sum(p.numel() for p in generator.parameters()) == 19_841
    assert sum(b.numel() for b in generator.buffers()) == 160


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 28, 28), (3, 32, 32), (3, 8, 12), (2, 9, 7)])
def test_images_of_any_shape_lie_between_minus_one_and_one(shape: Shape) -> None:
    generator = built(shape, width=4)
    images = generator(*drawn(generator))
    assert images.shape == (6, *shape)
    assert float(images.abs().max()) <= 1 and float(images.std()) > 0


def test_sides_that_four_does_not_divide_are_the_centre_of_the_next_multiple() -> None:
    whole, cropped = built((1, 8, 12)), built((1, 6, 9))
    cropped.load_state_dict(whole.state_dict())
    images = whole(*drawn(whole))
    assert torch.equal(cropped(*drawn(whole)), images[:, :, 1:7, 1:10])


def test_doubled_convolution_equals_nearest_upsampling_and_convolution() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64, generator=generator)
    with seeded(0):
        convolution = nn.Conv2d(5, 7, 3, padding=1).double()
    expected = convolution(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    torch.testing.assert_close(doubled(x, convolution), expected, rtol=0, atol=1e-13)


def test_in_eval_mode_an_image_does_not_depend_on_its_batch() -> None:
    generator = built().double()
    codes, labels = drawn(generator)
    whole, alone = generator(codes, labels), generator(codes[2:3], labels[2:3])
    torch.testing.assert_close(whole[2:3], alone, rtol=0, atol=1e-13)


def test_class_enters_through_the_norm_layers_alone() -> None:
    generator = built()
    codes, labels = drawn(generator)
    other = (labels + 1) % 3
    assert not torch.allclose(generator(codes, labels), generator(codes, other))
    for norm in generator.norms:
        norm.gain.weight.zero_(), norm.bias.weight.zero_()
    assert torch.equal(generator(codes, labels), generator(codes, other))


def test_train_mode_norm_equals_batch_norm_with_a_gain_and_bias_per_class() -> None:
    norm = built().norms[0].train()
    x = torch.randn(9, 32, 2, 2, generator=torch.Generator().manual_seed(3))
    labels = torch.arange(9) % 3
    plain = nn.BatchNorm2d(32, affine=False)(x)
    expected = plain * (1 + norm.gain.weight[labels])[..., None, None] + norm.bias.weight[labels][..., None, None]
    torch.testing.assert_close(norm(x, labels), expected, rtol=1e-5, atol=1e-6)


def test_every_layer_of_the_discriminator_has_spectral_norm_one() -> None:
    with seeded(0):
        judge = Discriminator((1, 8, 8), 3, 4)
    for _ in range(200):  # each pass refines the estimate of the norm
        scores = judge(torch.ones(5, 1, 8, 8), torch.arange(5) % 3)
    assert scores.shape == (5,)
    for layer in (*judge.convolutions, judge.score, judge.projection):
        assert float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)) == pytest.approx(1, abs=1e-3)


def test_saved_generator_loads_frozen_and_draws_the_same_images(tmp_path: Path) -> None:
    generator = built((3, 6, 9), code_size=5, width=6)
    loaded = load_generator(save_generator(generator, tmp_path / "g.safetensors"))
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert torch.equal(loaded(*drawn(generator)), generator(*drawn(generator)))
    assert loaded.options() == generator.options()


def test_file_that_is_no_generator_is_refused(tmp_path: Path) -> None:
    path = save_generator(built(), tmp_path / "g.safetensors")
    with pytest.raises(ArtifactError, match="cannot read the generator"):
        load_generator(tmp_path / "none.safetensors")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ArtifactError, match="cannot read the generator"):
        load_generator(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 16}, "do not fit its options"),
        ({"width": 3}, "even number"),
        ({"shape": [1, 8]}, "channels, height, width"),
        ({"code_size": 2**62}, "options of a generator are wrong"),
        ({"num_classes": "many"}, "options of a generator are wrong"),
        ({"extra": 1}, "options of a generator are wrong"),
    ],
)
def test_options_that_do_not_fit_the_weights_are_refused(change: dict, message: str) -> None:
    generator = built()
    with pytest.raises(ArtifactError, match=message):
        rebuild({**generator.options(), **change}, generator.state_dict())


def test_rebuilding_draws_no_random_number() -> None:
    generator = built()
    before = torch.get_rng_state()
    rebuild(generator.options(), generator.state_dict())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (1, 3, 8)}, "at least 4 px"),
        ({"width": 5}, "width=5"),
        ({"code_size": 0}, "code_size=0"),
    ],
)
def test_sizes_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Generator(**{"shape": (1, 8, 8), "num_classes": 2, **options})
