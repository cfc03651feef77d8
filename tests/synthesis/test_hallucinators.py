"""Hallucinators: what a basis and a hallucinator make, what both cost, where they start, what an artifact keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ddkit.data import RealData
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.errors import ArtifactError, ConfigError, DataError
from ddkit.synthesis import Hallucinators, MultiFormation, Pixels, SharedDecoders, decode, hallucinators
from ddkit.testing import toy_data

STYLE = ("encoder_weight", "encoder_bias", "sigma", "mu", "decoder_weight", "decoder_bias")


def started(how: str = "noise", data: RealData | None = None, seed: int = 0, **options: Any) -> Hallucinators:
    """Two bases in each of three classes, two hallucinators: twelve images."""
    data = data or toy_data()
    synthesizer = Hallucinators(data.num_classes, 2, data.shape, **{"hallucinators": 2, **options})
    synthesizer.initialise(data, how, torch.Generator().manual_seed(seed))
    return synthesizer


def style_of(synthesizer: Hallucinators) -> list[nn.Parameter]:
    return [getattr(synthesizer, name) for name in STYLE]


def make_identity(synthesizer: Hallucinators) -> None:
    """Set the kernels of all hallucinators to their centre tap."""
    with torch.no_grad():
        for weight in (synthesizer.encoder_weight, synthesizer.decoder_weight):
            weight.zero_()
            for channel in range(weight.shape[1]):
                weight[:, channel, min(channel, weight.shape[2] - 1), 1, 1] = 1
        for tensor in (synthesizer.encoder_bias, synthesizer.decoder_bias, synthesizer.mu):
            tensor.zero_()
        synthesizer.sigma.fill_(1)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 12)])
def test_delta_kernels_reproduce_the_interior_and_mu_shifts_it(shape) -> None:
    synthesizer = started(data=toy_data(shape=shape)).double()
    make_identity(synthesizer)
    bases = synthesizer.bases.detach().repeat_interleave(2, dim=0)
    images = synthesizer()[0].detach()
    inside = images[:, :, 1:-1, 1:-1]
    assert torch.equal(inside, bases[:, :, 1:-1, 1:-1])
    assert images.abs().sum() == inside.abs().sum()
    with torch.no_grad():
        synthesizer.mu.fill_(0.75)
        synthesizer.sigma.fill_(2)
    torch.testing.assert_close(synthesizer()[0][:, :, 1:-1, 1:-1], 2 * inside + 0.75, rtol=1e-14, atol=1e-14)


def test_bases_of_one_channel_colour_all_channels() -> None:
    synthesizer = started(data=toy_data(shape=(3, 8, 12)), base_channels=1).double()
    make_identity(synthesizer)
    images, grey = synthesizer()[0], synthesizer.bases.repeat_interleave(2, dim=0)
    assert torch.equal(images[..., 1:-1, 1:-1], grey.expand(-1, 3, -1, -1)[..., 1:-1, 1:-1])


@pytest.mark.parametrize(
    ("shape", "options", "numbers"),
    [((3, 32, 32), {}, 5568), ((1, 8, 8), {}, 92), ((3, 32, 32), {"base_channels": 1}, 5568 - 54)],
)
def test_one_hallucinator_has_the_published_number_of_parameters(shape, options, numbers) -> None:
    synthesizer = Hallucinators(10, 1, shape, hallucinators=1, **options)
    assert sum(tensor.numel() for tensor in style_of(synthesizer)) == numbers


@pytest.mark.parametrize(
    ("classes", "ipc", "floats", "equivalent"),
    [
        (10, 1, 58_560, 1.91),
        (10, 10, 335_040, 10.91),
        (10, 50, 1_563_840, 50.91),
        (100, 1, 335_040, 1.09),
        (100, 10, 3_099_840, 10.09),
        (100, 50, 15_387_840, 50.09),
    ],
)
def test_budget_counts_bases_and_hallucinators(classes, ipc, floats, equivalent) -> None:
    synthesizer = Hallucinators(classes, ipc, (3, 32, 32))
    assert synthesizer.budget().as_dict() == {
        "images": classes * ipc,
        "decoded_images": 5 * classes * ipc,
        "floats": floats,
        "bytes": 4 * floats,
    }
    assert round(floats / (classes * 3 * 32 * 32), 2) == equivalent


@pytest.mark.parametrize("kernel", [1, 2, 3, 8])
@pytest.mark.parametrize("base_channels", [None, 1])
def test_grouped_decoding_equals_a_loop_over_layers(kernel, base_channels) -> None:
    synthesizer = started(data=toy_data(shape=(3, 8, 12)), kernel=kernel, base_channels=base_channels).double()
    with torch.no_grad():
        for tensor in (synthesizer.sigma, synthesizer.mu):
            tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(3)))
    images = []
    for w1, b1, sigma, mu, w2, b2 in zip(*style_of(synthesizer), strict=True):
        encoder, decoder = nn.Conv2d(w1.shape[1], 3, kernel), nn.ConvTranspose2d(3, 3, kernel)
        for layer, weight, bias in ((encoder, w1, b1), (decoder, w2, b2)):
            layer.weight, layer.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
        images.append(decoder(encoder(synthesizer.bases) * sigma + mu))
    decoded, targets = synthesizer()
    assert targets.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    torch.testing.assert_close(decoded, torch.stack(images, dim=1).flatten(0, 1), rtol=1e-13, atol=1e-13)


def test_only_pairs_that_an_index_names_are_decoded(monkeypatch) -> None:
    synthesizer, decoded = started().double(), []
    whole = synthesizer()[0].detach()
    original = hallucinators.hallucinate

    def spy(bases, style):
        decoded.append(len(bases) * len(style[0]))
        return original(bases, style)

    monkeypatch.setattr(hallucinators, "hallucinate", spy)
    for index, calls in (([9, 1, 9], [2]), ([11, 2, 3], [1, 2]), ([5], [1]), ([3, 0, 1, 2], [4]), ([0, 3], [1, 1])):
        torch.testing.assert_close(synthesizer(torch.tensor(index))[0], whole[index], rtol=1e-13, atol=1e-13)
        assert decoded == calls
        decoded.clear()


def test_gradient_equals_central_differences() -> None:
    synthesizer = started(data=toy_data(shape=(2, 5, 4), counts=(3, 3))).double()
    inputs = (synthesizer.bases, *style_of(synthesizer))
    assert torch.autograd.gradcheck(lambda bases, *style: hallucinators.hallucinate(bases, style), inputs)


def test_real_start_takes_distinct_real_images_as_bases() -> None:
    data = toy_data(shape=(3, 8, 12))
    colour, grey = (started("real", data, base_channels=channels) for channels in (None, 1))
    for synthesizer in (colour, grey):
        index = synthesizer.pairs.view(-1, 2)
        assert torch.equal(index[:, 0], index[:, 1]) and index[:, 0].unique().numel() == 6
        assert torch.equal(data.labels[synthesizer.pairs], synthesizer.classes)
        images = data.batch(index[:, 0])
        expected = images if synthesizer is colour else images.mean(1, keepdim=True)
        assert torch.equal(synthesizer.bases.detach(), expected)


def test_default_start_is_that_of_convolutions() -> None:
    synthesizer = Hallucinators(2, 1, (3, 32, 32), hallucinators=50, base_channels=1)
    synthesizer.initialise(toy_data((3, 32, 32), (2, 2)), "noise", torch.Generator().manual_seed(0))
    assert bool((synthesizer.pairs == -1).all())
    layers = {"encoder": nn.Conv2d(1, 3, 3), "decoder": nn.ConvTranspose2d(3, 3, 3)}
    for name, layer in layers.items():
        bound = 1 / 3 if name == "encoder" else 27**-0.5
        for part in ("weight", "bias"):
            drawn = getattr(synthesizer, f"{name}_{part}")
            assert 0.95 * bound < drawn.abs().max() <= bound
            assert drawn.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
            assert getattr(layer, part).abs().max() <= bound
    assert bool((synthesizer.sigma == 1).all()) and bool((synthesizer.mu == 0).all())


@pytest.mark.parametrize("base_channels", [None, 1])
def test_identity_start_shows_nearly_the_bases_and_differs_between_hallucinators(base_channels) -> None:
    data = toy_data(shape=(3, 16, 16))
    near, far = (started("real", data, identity_start=how, base_channels=base_channels) for how in (True, False))
    for synthesizer, lowest, highest in ((near, 0.9, 1.0), (far, -1.0, 0.7)):
        images = synthesizer()[0].detach()[..., 1:-1, 1:-1].flatten(1)
        bases = synthesizer.bases.detach().expand(-1, 3, -1, -1)[..., 1:-1, 1:-1].flatten(1).repeat_interleave(2, 0)
        cosine = torch.cosine_similarity(images, bases)
        assert lowest < cosine.mean() < highest
    images = near()[0].detach().unflatten(0, (-1, 2))
    assert (images[:, 0] - images[:, 1]).square().mean() > 1e-4


@pytest.mark.parametrize("how", ["real", "noise"])
def test_start_follows_the_generator(how) -> None:
    first, same, other = (started(how, seed=seed)()[0] for seed in (1, 1, 2))
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_bases_hallucinators_and_labels_are_groups_of_their_own() -> None:
    groups = started(labels="learned").parameter_groups()
    assert {name: len(group) for name, group in groups.items()} == {"images": 1, "style": 6, "labels": 1}


def test_an_outer_step_sees_all_hallucinators_of_every_basis() -> None:
    classes, generator = torch.tensor([2, 0]), torch.Generator().manual_seed(0)
    before = generator.get_state()
    everything = started(hallucinators=3).batch_index(classes, generator)
    assert everything.tolist() == [*range(12, 18), *range(6)] and torch.equal(generator.get_state(), before)


def test_inner_batches_are_chunks_of_bases_through_one_hallucinator() -> None:
    synthesizer = started(hallucinators=3)
    batches = synthesizer.inner_batches(40, 2, torch.Generator().manual_seed(0))
    assert [len(batch) for batch in batches] == [2] * 40
    views = [batch % 3 for batch in batches]
    assert all(bool((view == view[0]).all()) for view in views)
    assert {int(view[0]) for view in views} == {0, 1, 2}
    bases = torch.stack([batch // 3 for batch in batches[:39]]).view(13, 6)
    assert torch.equal(bases.sort(dim=1).values, torch.arange(6).expand(13, -1))
    assert bases.unique(dim=0).shape[0] > 1
    again = synthesizer.inner_batches(40, 2, torch.Generator().manual_seed(0))
    assert all(torch.equal(one, other) for one, other in zip(batches, again, strict=True))


@pytest.mark.parametrize(("size", "expected"), [(None, 6), (4, 4), (6, 6)])
def test_inner_batches_have_one_size_and_drop_what_is_left(size, expected) -> None:
    batches = started().inner_batches(7, size, torch.Generator().manual_seed(0))
    assert [len(batch) for batch in batches] == [expected] * 7
    assert all(batch.unique().numel() == expected for batch in batches)
    for wrong in (0, 7):
        with pytest.raises(ConfigError, match=f"a batch of {wrong} bases must hold between 1 and all 6, or none"):
            started().inner_batches(1, wrong, torch.Generator())


def test_views_of_a_code_are_where_each_synthesizer_numbers_them() -> None:
    codes = torch.tensor([5, 0, 3])
    synthesizer = started(hallucinators=3)
    assert synthesizer.views == 3 and synthesizer.view_index(codes, 2).tolist() == [17, 2, 11]
    assert Pixels(3, 2, (1, 8, 8)).views == 1
    decoders = SharedDecoders(3, 4, (1, 8, 8), codes=2, decoders=2, hidden=3)
    assert decoders.views == 2 and decoders.view_index(codes, 1).tolist() == [11, 1, 7]
    for how, views in (("single", 4), ("multi", 5)):
        patches = MultiFormation(3, 2, (1, 16, 16), decode_type=how)
        assert patches.views == views
        for view in range(views):
            index = patches.view_index(codes, view)
            assert torch.equal(patches.classes[index], codes // 2)
            factor, image, patch = patches.plan[index % len(patches.plan)].unbind(1)
            assert torch.equal(image, codes % 2)
            assert bool((factor == factor[0]).all()) and bool((patch == patch[0]).all())
    assert MultiFormation(3, 3, (1, 16, 16), decode_type="bound", batch_images=7).views == 1
    assert MultiFormation(3, 3, (1, 16, 16), decode_type="bound", batch_images=15).views == 4


@pytest.mark.parametrize(("labels", "kind"), [("hard", "hard"), ("soft", "soft")])
@pytest.mark.parametrize("base_channels", [None, 1])
def test_artifact_stores_what_the_budget_says_and_decodes_to_the_same_bits(
    tmp_path, labels, kind, base_channels
) -> None:
    data = toy_data(shape=(3, 8, 12))
    synthesizer = started("real", data, labels=labels, base_channels=base_channels)
    artifact = synthesizer.materialise(data.preprocessing, data.class_names, {})
    assert ("labels" in artifact.stored) == (labels == "soft")
    assert artifact.budget.floats == sum(tensor.numel() for tensor in artifact.stored.values())
    assert artifact.label_kind == kind and artifact.hard_labels().tolist() == [0] * 4 + [1] * 4 + [2] * 4
    loaded = DistilledDataset.load(artifact.save(tmp_path))
    assert torch.equal(loaded.images, artifact.images) and torch.equal(loaded.labels, artifact.labels)
    torch.testing.assert_close(artifact.images, synthesizer()[0].detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hallucinators": 0}, "synthesis.hallucinators=0 must be at least 1"),
        ({"kernel": 9}, "synthesis.kernel=9 must lie between 1 and the shorter side of 8x12"),
        ({"kernel": 0}, "synthesis.kernel=0"),
        ({"base_channels": 2}, "synthesis.base_channels=2 must be 1 or the 3 of the images"),
        ({"ipc": 0}, "ipc=0 must be at least 1"),
        ({"ipc": 10**7}, "decode to 43,200,000,000 numbers"),
    ],
)
def test_options_out_of_range_are_refused(options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        Hallucinators(**{"num_classes": 3, "ipc": 2, "shape": (3, 8, 12), **options})


def test_more_bases_than_real_images_are_refused() -> None:
    with pytest.raises(DataError, match="ipc=2 is larger than class 'class-1', which has 1"):
        started("real", toy_data(counts=(5, 1, 5)))
    assert len(started("noise", toy_data(counts=(5, 1, 5)))) == 12


def test_images_smaller_than_a_kernel_get_a_smaller_one() -> None:
    assert Hallucinators.options_for(toy_data(shape=(1, 2, 8)), 1) == {"kernel": 2}
    assert Hallucinators.options_for(toy_data(), 1) == {}


def test_damaged_stored_tensors_are_refused() -> None:
    synthesizer = started(data=toy_data(shape=(3, 8, 12)))
    stored, options = synthesizer.stored(), synthesizer.options()
    assert torch.equal(decode("hallucinators", stored, options)[1], synthesizer()[1])
    damaged: list[tuple[dict[str, Tensor], dict[str, Any], str]] = [
        ({}, {"num_classes": 4}, "6 bases do not divide among 4 classes"),
        ({}, {"shape": [3, 8, 13]}, "'sigma' does not make images of"),
        ({"bases": torch.zeros(6, 3, 9, 12)}, {}, "'bases' does not make images of"),
        ({"bases": torch.zeros(6, 2, 8, 12)}, {}, "'encoder_weight' does not make images of"),
        ({"mu": torch.zeros(2, 3, 1, 1)}, {}, "'mu' does not make images of"),
        ({"bases": torch.zeros(1, 3, 8, 12).expand(3 * 10**6, -1, -1, -1)}, {}, "where 1,073,741,824 are the most"),
    ]
    for tensors, changed, message in damaged:
        with pytest.raises(ArtifactError, match=message):
            decode("hallucinators", {**stored, **tensors}, {**options, **changed})
