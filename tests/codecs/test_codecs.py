"""Tensors come back within their steps, decoding gives the bits that rounding gave, and damage is named."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from ddkit.codecs import DCT, Codec, Float16, Float32, Palette, Uniform, decode, encode, registry
from ddkit.codecs.uniform import Group
from ddkit.errors import ArtifactError, ConfigError


def images(shape: tuple[int, ...] = (12, 3, 10, 9), seed: int = 0) -> Tensor:
    """Smooth images with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(*shape[:2], 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=shape[2:], mode="bilinear")
    return smooth + 0.1 * torch.randn(shape, generator=generator)


CODECS = {
    "float32": Float32(),
    "float16": Float16(),
    **{f"uniform-{bits}-{group}": Uniform(bits, group) for bits in (1, 3, 8) for group in get_args(Group)},
    "palette": Palette(8),
    "dct": DCT(),
    "dct-whole": DCT(0.3, block=0),
    "dct-half": DCT(0.3, resolution=2),
    "dct-quarter": DCT(1.0, resolution=4, block=4),
}


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_decoding_gives_the_bits_that_rounding_gave(codec: Codec) -> None:
    values = images()
    coded = encode(codec, values)
    decoded = decode(coded.entry, coded.parts)
    assert decoded.dtype == torch.float32 and decoded.shape == values.shape
    assert torch.equal(codec.fit(values).rounded(values), decoded)
    again = encode(codec, values)
    assert again.entry == coded.entry
    assert all(torch.equal(part, again.parts[name]) for name, part in coded.parts.items())


@pytest.mark.parametrize("shape", [(7,), (6, 4), (5, 2, 3), (4, 1, 5, 6)], ids=str)
@pytest.mark.parametrize("codec", [Float32(), Float16(), Uniform(4), Uniform(2, "image"), Uniform(3, "patch")])
def test_tensors_of_any_number_of_dimensions_come_back(codec: Codec, shape: tuple[int, ...]) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    coded = encode(codec, values)
    assert decode(coded.entry, coded.parts).shape == shape


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("group", ["channel", "image", "patch"])
def test_errors_are_at_most_half_a_step_inside_the_range(bits: int, group: Any) -> None:
    values = images()
    coded = encode(Uniform(bits, group), values)
    decoded = decode(coded.entry, coded.parts)
    low, step = (coded.parts[name].float() for name in ("low", "step"))
    if group == "patch":
        low, step = (one.repeat_interleave(4, 2).repeat_interleave(4, 3)[:, :, :10, :9] for one in (low, step))
    else:
        low, step = low[..., None, None], step[..., None, None]
    inside = values.clamp(low, low + step * (2**bits - 1))
    assert bool(((inside - decoded).abs() <= step / 2 * (1 + 1e-5) + 1e-6).all())


def test_coding_what_was_decoded_gives_the_same_symbols_and_values() -> None:
    for bits in (8, 6, 4, 3, 2):
        coded = encode(Uniform(bits), images())
        decoded = decode(coded.entry, coded.parts)
        again = Uniform(bits).fit(images()).encode(decoded)
        assert torch.equal(again.parts["symbols"], coded.parts["symbols"])


def test_uniform_noise_has_the_error_of_a_uniform_step() -> None:
    values = torch.rand(64, 1, 32, 32, generator=torch.Generator().manual_seed(3))
    for bits in (3, 4, 6):
        coded = encode(Uniform(bits), values)
        error = (decode(coded.entry, coded.parts) - values).square().mean().sqrt() / coded.parts["step"].float()
        assert float(error) == pytest.approx(12**-0.5, rel=0.03)


def test_clipping_helps_where_bits_are_few() -> None:
    values = torch.randn(8, 1, 32, 32, generator=torch.Generator().manual_seed(4))

    def noise(bits: int) -> float:
        coded = encode(Uniform(bits), values)
        return float(10 * torch.log10(values.var() / (decode(coded.entry, coded.parts) - values).square().mean()))

    assert noise(1) == pytest.approx(4.4, abs=0.3)
    assert noise(2) == pytest.approx(9.2, abs=0.3)
    assert noise(4) == pytest.approx(19.3, abs=0.4)


def test_constant_groups_keep_their_value() -> None:
    values = torch.full((3, 2, 4, 4), 0.5)
    values[:, 1] = -2.0
    coded = encode(Uniform(2), values)
    assert torch.equal(decode(coded.entry, coded.parts), values)


def test_half_precision_keeps_eleven_bits() -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(5)) * 100
    coded = encode(Float16(), values)
    assert coded.nbytes == 2000
    assert float(((decode(coded.entry, coded.parts) - values) / values).abs().max()) <= 2**-11


def test_few_colours_are_found_exactly() -> None:
    palette = torch.tensor([[0.0, 1.0, 0.5], [1.0, 0.25, 0.0], [0.5, 0.5, 0.75]])
    owner = torch.randint(0, 3, (6, 8, 8), generator=torch.Generator().manual_seed(6))
    values = palette[owner].permute(0, 3, 1, 2).contiguous()
    coded = encode(Palette(4), values)
    assert torch.equal(decode(coded.entry, coded.parts), values)


def test_cosine_transform_of_fine_steps_is_near_the_image_and_coarse_steps_are_small() -> None:
    values = images((12, 3, 32, 32))
    fine, coarse = encode(DCT(0.02, 0.0), values), encode(DCT(1.0), values)
    assert float((decode(fine.entry, fine.parts) - values).abs().max()) < 0.2
    assert coarse.nbytes < fine.nbytes / 5
    assert coarse.nbytes < encode(Uniform(1), values).nbytes


def test_blocks_split_an_image_evenly() -> None:
    values = images((12, 1, 10, 10))
    for wide, same in ((8, 5), (64, 0), (63, 10)):
        first, second = encode(DCT(block=wide), values), encode(DCT(block=same), values)
        assert torch.equal(decode(first.entry, first.parts), decode(second.entry, second.parts))


def test_a_patch_larger_than_the_images_is_a_channel() -> None:
    patch, channel = encode(Uniform(3, "patch", 10**9), images()), encode(Uniform(3), images())
    assert torch.equal(patch.parts["low"].flatten(), channel.parts["low"].flatten())
    assert torch.equal(patch.parts["symbols"], channel.parts["symbols"])


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: registry.create("uniform", {"bits": 9}), r"codec\.bits=9 must lie in \[1, 8\]"),
        (lambda: registry.create("uniform", {"bits": 0}), r"codec\.bits=0 must lie in \[1, 8\]"),
        (lambda: registry.create("palette", {"colours": 1}), r"codec\.colours=1 must lie in \[2, 256\]"),
        (lambda: registry.create("dct", {"step": 0.0}), r"codec\.step=0\.0 must be positive and finite"),
        (lambda: registry.create("unifrom", {}), "did you mean 'uniform'"),
        (lambda: encode(Palette(4), images((4, 1, 8, 8))), "codec palette is for images of several channels"),
        (lambda: encode(DCT(), torch.zeros(5, 4)), "codec dct at 1/1 of the resolution is for images"),
        (lambda: encode(DCT(resolution=4), images((4, 1, 3, 3))), "codec dct at 1/4 of the resolution is for images"),
        (lambda: encode(DCT(), torch.zeros(1, 1, 2100, 2100)), "images of up to 4,194,304 numbers"),
        (lambda: encode(DCT(block=0), torch.zeros(1, 1, 300, 8)), "and 256 pixels a side in one block"),
        (lambda: encode(Float16(), torch.tensor([1e5])), "reach 1e.05, and float16 ends at 65504"),
        (lambda: encode(Uniform(4), torch.tensor([1e30, 0.0])), "and float16 ends at 65504"),
        (lambda: encode(Uniform(4), torch.tensor([1.0, float("nan")])), "cannot be coded: give finite float32"),
        (lambda: encode(Uniform(4), torch.arange(4)), "cannot be coded: give finite float32"),
        (lambda: encode(Uniform(8), torch.tensor([0.0, 1e-7])), "lie closer together than steps of float16 can tell"),
    ],
)
def test_what_no_codec_holds_is_refused(build: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build()


def _entries() -> list[tuple[str, dict[str, Any], dict[str, Tensor]]]:
    hostile = []
    for name in ("uniform-3-channel", "palette", "dct", "float16"):
        coded = encode(CODECS[name], images())
        for key in coded.entry:
            for value in (None, -1, 10**12, "x", [1], 3.5):
                hostile.append((f"{name}-{key}={value}", {**coded.entry, key: value}, coded.parts))
        for key, part in coded.parts.items():
            hostile.append((f"{name} without {key}", coded.entry, {k: v for k, v in coded.parts.items() if k != key}))
            hostile.append((f"{name} half of {key}", coded.entry, {**coded.parts, key: part[: len(part) // 2].clone()}))
            hostile.append((f"{name} {key} as int64", coded.entry, {**coded.parts, key: part.to(torch.int64)}))
    return hostile


@pytest.mark.parametrize(("entry", "parts"), [case[1:] for case in _entries()], ids=[case[0] for case in _entries()])
def test_hostile_entries_end_in_one_line(entry: dict[str, Any], parts: dict[str, Tensor]) -> None:
    try:
        decode(entry, parts)
    except ArtifactError as error:
        assert "\n" not in str(error) and len(str(error)) < 400
