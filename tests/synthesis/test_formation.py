"""Multi-formation: which pixels a decoded image comes from, where stored images start, what an artifact keeps."""

from __future__ import annotations

import itertools
import math
import warnings

import pytest
import torch
import torch.nn.functional as F

from ddkit.data import Preprocessing, RealData
from ddkit.data.coresets import kmeans_representatives, pixel_features
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.errors import ArtifactError, ConfigError, DataError
from ddkit.synthesis import MultiFormation, decode
from ddkit.synthesis.patches import decode_patches, formations, layout, mosaic, patch_bounds
from ddkit.testing import toy_data

#: Sizes that 2 and 3 do not divide alike, and an image that is not square.
SHAPES = [(1, 28, 28), (3, 16, 25), (2, 13, 12)]


def decoded(stored: torch.Tensor, factor: int, padding: float = 0.5) -> torch.Tensor:
    """Decode all patches of single stored images of as many classes."""
    plan = layout(formations("single", 1, factor, 128))
    return decode_patches(stored, plan, 1, torch.arange(len(stored) * factor**2), padding)


@pytest.fixture(scope="module")
def data() -> RealData:
    return toy_data(shape=(3, 16, 20), counts=(20, 25, 19))


def started(data: RealData, how: str = "real", ipc: int = 2, seed: int = 0, **options) -> MultiFormation:
    formation = MultiFormation(data.num_classes, ipc, data.shape, **options)
    formation.initialise(data, how, torch.Generator().manual_seed(seed))
    return formation


def test_a_patch_is_enlarged_by_bilinear_weights() -> None:
    images = decoded(torch.arange(16.0, dtype=torch.float64).view(1, 1, 4, 4), factor=2)
    corners = images[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    assert images[0, 0, 0].tolist() == [0, 0.25, 0.75, 1]
    assert images[0, 0, :, 0].tolist() == [0, 1, 3, 4]


@pytest.mark.parametrize("shape", SHAPES)
def test_factor_one_is_the_identity(shape: tuple[int, int, int]) -> None:
    stored = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(decoded(stored, 1), stored)


@pytest.mark.parametrize(("factor", "value", "side"), [(2, 0.2, 16), (4, -3.0, 16), (3, 0.5, 16)])
def test_a_constant_image_decodes_to_the_constant(factor: int, value: float, side: int) -> None:
    images = decoded(torch.full((1, 2, side, side), value, dtype=torch.float64), factor)
    torch.testing.assert_close(images, torch.full((factor**2, 2, side, side), value, dtype=torch.float64))


@pytest.mark.parametrize(("factor", "shape"), [(2, (1, 8, 12)), (3, (2, 12, 18))])
def test_every_decoded_pixel_spreads_one_unit_of_gradient(factor: int, shape: tuple[int, int, int]) -> None:
    stored = torch.rand(2, *shape, dtype=torch.float64, requires_grad=True)
    decoded(stored, factor).sum().backward()
    total = torch.full((2,), float(factor**2 * math.prod(shape)), dtype=torch.float64)
    torch.testing.assert_close(stored.grad.sum((1, 2, 3)), total)


@pytest.mark.parametrize("decode_type", ["single", "multi", "bound"])
def test_gradient_of_the_decoder_is_exact(decode_type: str) -> None:
    plan = layout(formations(decode_type, 3, 3, 16))
    stored = torch.rand(6, 1, 7, 6, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([len(plan) + 1, 0, len(plan) - 1, 2])
    assert torch.autograd.gradcheck(lambda x: decode_patches(x, plan, 3, index, 0.5), stored)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_decoder_and_start_cut_at_the_same_pixels(shape: tuple[int, int, int], factor: int) -> None:
    """Single-coloured sources, one a patch, come back without a trace of their neighbours."""
    values = torch.linspace(1, 9, factor**2, dtype=torch.float64)
    parts = formations("single", 1, factor, 128)
    codes = mosaic(values.view(-1, 1, 1, 1).expand(-1, *shape), parts, 1)
    assert bool((codes > 0).all())
    dark, bright = (decoded(codes, factor, padding=padding) for padding in (-100.0, 100.0))
    for value, image, other in zip(values, dark, bright, strict=True):
        own = image[image == other]  # what does not see the padding
        assert len(own) and torch.allclose(own, value)


def test_patches_of_28_pixels_cut_by_three() -> None:
    assert patch_bounds(28, 3) == [(0, 10), (10, 20), (20, 30)]


def blurred(data: RealData, index: torch.Tensor, factor: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Real images shrunk to a patch, on the [0, 1] scale, and enlarged again, preprocessed."""
    height, width = data.shape[1:]
    patches = F.interpolate(data.images[index].float() / 255, size=(height // factor, width // factor))
    enlarged = F.interpolate(patches, size=(height, width), mode="bilinear", align_corners=False)
    return patches, data.preprocessing.apply(enlarged)


def test_real_start_decodes_to_blurred_sources_in_order(data: RealData) -> None:
    formation = started(data, ipc=2, factor=2)
    images, targets = formation()
    patches, wanted = blurred(data, formation.pairs, 2)
    torch.testing.assert_close(images, wanted)
    assert torch.equal(targets, data.labels[formation.pairs])
    assert len(set(formation.pairs.tolist())) == len(formation) == 24
    # The image varies fastest: the first two decoded images are the first patches of two stored images.
    assert torch.equal(formation.images[1, :, :8, :10], patches[1])
    assert torch.equal(formation.images[0, :, :8, 10:], patches[2])


def test_kmeans_start_puts_representatives_into_the_patches(data: RealData) -> None:
    formation = started(data, "kmeans", ipc=2, factor=2)
    chosen = kmeans_representatives(pixel_features(data), data.class_index, 8)[0]
    assert torch.equal(formation.pairs, chosen)
    torch.testing.assert_close(formation()[0], blurred(data, chosen, 2)[1])


def test_real_start_with_factor_one_is_the_real_images(data: RealData) -> None:
    formation = started(data, ipc=3, factor=1)
    torch.testing.assert_close(formation()[0], data.batch(formation.pairs))
    assert torch.equal(formation.images, data.images[formation.pairs].float() / 255)


def test_sources_of_several_factors(data: RealData) -> None:
    multi = started(data, ipc=2, factor=2, decode_type="multi")
    largest = torch.arange(len(multi)) % 10 >= 2
    assert bool((multi.pairs[~largest] == -1).all())
    torch.testing.assert_close(multi()[0][largest], blurred(data, multi.pairs[largest], 2)[1])
    bound = started(data, ipc=3, factor=2, decode_type="bound", batch_images=8)
    cut = torch.arange(len(bound)) % 6 < 4
    torch.testing.assert_close(bound()[0][cut], blurred(data, bound.pairs[cut], 2)[1])
    torch.testing.assert_close(bound()[0][~cut], data.batch(bound.pairs[~cut]))
    assert torch.equal(bound.classes, data.labels[bound.pairs])


def test_noise_start_is_clamped_noise_around_grey() -> None:
    values = started(toy_data(shape=(3, 32, 32)), "noise", ipc=9).images.detach()
    inside = values[(values > 0) & (values < 1)]
    assert float(values.min()) >= 0 and float(values.max()) <= 1
    assert abs(float(values.mean()) - 0.5) < 0.005
    assert abs(len(inside) / values.numel() - 0.9545) < 0.005  # two standard deviations of 1/4 on either side


def test_start_follows_the_generator(data: RealData) -> None:
    for how in ("real", "noise"):
        assert torch.equal(started(data, how, seed=1).images, started(data, how, seed=1).images)
        assert not torch.equal(started(data, how, seed=1).images, started(data, how, seed=2).images)


def test_types_of_decoding() -> None:
    def cuts(*arguments) -> list[tuple[int, int, int]]:
        return [(part.factor, part.first, part.last) for part in formations(*arguments)]

    assert cuts("single", 5, 3, 1) == [(3, 0, 5)]
    assert cuts("multi", 5, 3, 1) == [(1, 0, 5), (2, 0, 5), (3, 0, 5)]
    assert cuts("bound", 10, 3, 128) == [(3, 0, 10)]
    assert cuts("bound", 20, 3, 128) == [(3, 0, 12), (2, 12, 15), (1, 15, 20)]
    assert cuts("bound", 200, 3, 128) == [(1, 0, 200)]


@pytest.mark.parametrize(("ipc", "factor", "bound"), itertools.product((1, 7, 50, 128), (1, 2, 3, 4), (16, 128)))
def test_bound_keeps_every_image_and_its_bound(ipc: int, factor: int, bound: int) -> None:
    parts = formations("bound", ipc, factor, bound)
    assert [image for part in parts for image in range(part.first, part.last)] == list(range(ipc))
    assert sum(part.decoded for part in parts) <= max(bound, ipc)


@pytest.mark.parametrize("options", [{"factor": 2}, {"factor": 3, "decode_type": "multi"}, {"decode_type": "bound"}])
def test_some_images_are_decoded_as_among_all(data: RealData, options: dict) -> None:
    formation = started(data, "noise", ipc=3, batch_images=9, **options)
    whole = formation()[0]
    order = torch.randperm(len(formation), generator=torch.Generator().manual_seed(3))
    for index in (order, order[:5], order[:1]):
        images, targets = formation(index)
        assert torch.equal(images, whole[index]) and torch.equal(targets, formation.classes[index])


def test_a_step_looks_at_a_part_of_many_images(data: RealData) -> None:
    formation = started(data, "noise", ipc=4, batch_images=10)
    classes = torch.tensor([0, 1, 2])
    index = formation.batch_index(classes, torch.Generator().manual_seed(0))
    assert torch.equal(formation.classes[index], classes.repeat_interleave(10))
    assert len(set(index.tolist())) == 30
    assert not torch.equal(index[:10], index[10:20] - formation.decoded_per_class)
    chunks = torch.Generator().manual_seed(0)
    assert torch.equal(index, torch.cat([formation.batch_index(part, chunks) for part in classes.split(2)]))
    few = started(data, "noise", ipc=4, batch_images=16)
    assert torch.equal(few.batch_index(classes, torch.Generator()), few.index_of(classes))


def test_pixels_are_clamped_after_a_step(data: RealData) -> None:
    formation = started(data)
    with torch.no_grad():
        formation.images.add_(torch.linspace(-2, 2, formation.images.numel()).view_as(formation.images))
    wanted = formation.images.detach().clamp(0, 1)
    formation.after_step()
    assert torch.equal(formation.images, wanted)


def test_whitened_data_are_coded_in_their_own_space() -> None:
    data = toy_data(shape=(1, 9, 9), counts=(12, 14))
    data = data.with_preprocessing(Preprocessing.fit(data.images, zca=True))
    plain = started(data, ipc=2, factor=1)
    assert torch.equal(plain()[0], data.batch(plain.pairs))
    with torch.no_grad():
        plain.images.add_(7)
    before = plain.images.detach().clone()
    plain.after_step()
    assert torch.equal(plain.images, before) and torch.equal(plain()[0], before)
    padded = started(data, ipc=1, factor=2)
    with torch.no_grad():
        padded.images.fill_(1)
    assert padded()[0][-1, 0, -1, -1].item() == 0.0  # the last pixel of the last patch is padding
    assert started(data, "noise", ipc=20).images.min().item() < -1


@pytest.mark.parametrize(
    "options",
    [{"factor": 1}, {"factor": 3}, {"decode_type": "multi"}, {"decode_type": "bound", "batch_images": 5}],
)
def test_artifact_reloads_to_the_same_images(data: RealData, options: dict, tmp_path) -> None:
    formation = started(data, ipc=2, labels="soft", **options)
    artifact = formation.materialise(data.preprocessing, data.class_names, {"method": "test"})
    loaded = DistilledDataset.load(artifact.save(tmp_path / "a.safetensors"))
    assert torch.equal(loaded.images, formation()[0]) and torch.equal(loaded.labels, formation()[1])
    assert artifact.stored["images"].shape == (6, 3, 16, 20)
    shown = loaded.unclipped()
    assert float(shown.min()) >= -1e-5 and float(shown.max()) <= 1 + 1e-5


def test_state_holds_the_scale_of_the_pixels(data: RealData) -> None:
    formation = started(data)
    resumed = MultiFormation(3, 2, data.shape)
    resumed.load_state_dict(formation.state_dict())
    assert torch.equal(resumed()[0], formation()[0]) and resumed.options() == formation.options()
    assert torch.equal(resumed.pairs, formation.pairs)


@pytest.mark.parametrize(("labels", "numbers", "size"), [("hard", 0, 0), ("learned", 3, 12)])
def test_budget_counts_stored_images_and_the_labels_of_decoded_ones(
    data: RealData, labels: str, numbers: int, size: int
) -> None:
    formation = started(data, ipc=2, labels=labels)
    assert formation.budget().as_dict() == {
        "images": 6,
        "decoded_images": 24,
        "floats": 6 * 960 + 24 * numbers,
        "bytes": 4 * 6 * 960 + 24 * size,
    }
    assert sum(tensor.numel() for tensor in formation.stored().values()) == formation.budget().floats
    groups = {name: [tuple(p.shape) for p in group] for name, group in formation.parameter_groups().items()}
    assert groups["images"] == [(6, 3, 16, 20)] and groups.get("labels", [(24, 3)]) == [(24, 3)]


def test_what_does_not_fit_is_refused(data: RealData) -> None:
    with pytest.raises(DataError, match=r"ipc=5 .* class 'class-2' .* starts from 20 real images, and there are 19"):
        started(data, ipc=5)
    with pytest.raises(DataError, match="starts from 20 real images"):
        started(data, "kmeans", ipc=5)
    assert len(started(data, "noise", ipc=5)) == 60
    with pytest.raises(ConfigError, match="factor=0 must be at least 1"):
        started(data, factor=0)
    with pytest.raises(ConfigError, match=r"factor=5 leaves patches of less than 4 pixels .* up to 4"):
        started(data, factor=5)
    with pytest.raises(ConfigError, match="leaves a patch outside"):
        MultiFormation(2, 1, (1, 101, 100), factor=25)
    with pytest.raises(ConfigError, match="did you mean 'single'"):
        started(data, decode_type="singel")
    with pytest.raises(ConfigError, match="batch_images=0"):
        started(data, batch_images=0)
    with pytest.raises(ConfigError, match="ipc=0"):
        started(data, ipc=0)
    stored = started(data, labels="soft").stored()
    with pytest.raises(ArtifactError, match="decode to 54 images and there are 24 labels"):
        decode("multi-formation", stored, {**started(data).options(), "factor": 3})


def test_coarse_patches_are_warned_about() -> None:
    with pytest.warns(UserWarning, match="patches of 4 pixels"):
        MultiFormation(2, 1, (1, 8, 8), factor=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MultiFormation(2, 1, (1, 16, 16), factor=2)
        MultiFormation(2, 1, (1, 6, 6), factor=1)
