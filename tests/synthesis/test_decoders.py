"""Shared decoders: what a code and a decoder make, what both cost, where they start, what an artifact keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ddkit import Distiller, augment
from ddkit.base.streams import Streams
from ddkit.data import Preprocessing, RealData
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.errors import ArtifactError, ConfigError, DataError
from ddkit.models import ModelSpec
from ddkit.networks import FreshNetworks, Network, RealSignal
from ddkit.objectives import Context, DistributionMatching
from ddkit.synthesis import Pixels, SharedDecoders, Synthesizer, decode, latent
from ddkit.testing import CHECKS, toy_data

#: Two codes and two decoders a class: four images.
SIZES: dict[str, Any] = {"codes": 2, "decoders": 2, "code_channels": 2, "hidden": 3, "warm_steps": 5}
IPC = 4
WEIGHTS = ("first_weight", "first_bias", "second_weight", "second_bias")


def started(how: str = "noise", data: RealData | None = None, seed: int = 0, **options: Any) -> SharedDecoders:
    data = data or toy_data()
    synthesizer = SharedDecoders(data.num_classes, IPC, data.shape, **{**SIZES, **options})
    synthesizer.initialise(data, how, torch.Generator().manual_seed(seed))
    return synthesizer


def modules(synthesizer: SharedDecoders) -> list[nn.Sequential]:
    """The same decoders, built of layers."""
    built = []
    for w1, b1, w2, b2 in zip(*(getattr(synthesizer, name) for name in WEIGHTS), strict=True):
        layers = [
            nn.ConvTranspose2d(*w1.shape[:2], 4, stride=2, padding=1),
            nn.LeakyReLU(0.1),
            nn.ConvTranspose2d(*w2.shape[:2], 4, stride=2, padding=1),
        ]
        for layer, weight, bias in ((layers[0], w1, b1), (layers[2], w2, b2)):
            layer.weight, layer.bias = nn.Parameter(weight.detach().clone()), nn.Parameter(bias.detach().clone())
        built.append(nn.Sequential(*layers))
    return built


@pytest.mark.parametrize(
    ("classes", "ipc", "shape", "channels", "hidden", "decoders", "numbers", "codes", "floats"),
    [
        (10, 1, (1, 28, 28), 2, 8, 4, 393, 6, 7_452),
        (10, 10, (1, 28, 28), 2, 16, 8, 785, 73, 77_820),
        (10, 1, (3, 32, 32), 3, 8, 8, 779, 12, 29_272),
        (10, 10, (3, 32, 32), 3, 16, 8, 1_555, 153, 306_200),
        (100, 1, (3, 32, 32), 3, 16, 8, 1_555, 15, 300_440),
        (200, 1, (3, 64, 64), 3, 16, 8, 1_555, 15, 2_316_440),
    ],
)
def test_codes_fill_the_budget_that_decoders_leave(
    classes, ipc, shape, channels, hidden, decoders, numbers, codes, floats
) -> None:
    options = {"decoders": decoders, "code_channels": channels, "hidden": hidden}
    synthesizer = SharedDecoders(classes, ipc, shape, **options)
    decoder = [parameter for name, parameter in synthesizer.named_parameters() if name != "codes"]
    assert sum(parameter[0].numel() for parameter in decoder) == numbers
    assert len(synthesizer.codes) == classes * codes
    assert synthesizer.budget().as_dict() == {
        "images": classes * ipc,
        "decoded_images": classes * codes * decoders,
        "floats": floats,
        "bytes": 4 * floats,
    }
    one_more = floats + classes * synthesizer.codes[0].numel()
    assert floats <= ipc * classes * torch.Size(shape).numel() < one_more


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 12), (3, 9, 14)])
def test_grouped_decoding_equals_vmap_and_a_loop_over_decoders(shape) -> None:
    synthesizer = started(data=toy_data(shape=shape))
    height, width = shape[1:]
    loop = torch.stack([decoder(synthesizer.codes) for decoder in modules(synthesizer)], 1).flatten(0, 1)
    top, left = (loop.shape[2] - height) // 2, (loop.shape[3] - width) // 2
    images, targets = synthesizer()
    assert images.shape == (12, *shape) and targets.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert (images - loop[:, :, top : top + height, left : left + width]).abs().max() < 1e-6

    def one(w1, b1, w2, b2):
        hidden = F.leaky_relu(F.conv_transpose2d(synthesizer.codes, w1, b1, 2, 1), 0.1)
        return F.conv_transpose2d(hidden, w2, b2, 2, 1)

    mapped = torch.func.vmap(one, out_dims=1)(*(getattr(synthesizer, name) for name in WEIGHTS)).flatten(0, 1)
    assert (mapped - loop).abs().max() < 1e-6


def test_decoding_in_chunks_changes_nothing(monkeypatch) -> None:
    whole = [started(how)()[0] for how in ("noise", "real")]
    monkeypatch.setattr(latent, "CHUNK", 4)
    monkeypatch.setattr("ddkit.synthesis.decoders.CHUNK", 4)
    for how, images in zip(("noise", "real"), whole, strict=True):
        torch.testing.assert_close(started(how)()[0], images, rtol=1e-4, atol=1e-5)


def test_permuted_decoders_permute_images_and_leave_labels() -> None:
    synthesizer = started()
    images, targets = synthesizer()
    with torch.no_grad():
        for name in WEIGHTS:
            getattr(synthesizer, name).copy_(getattr(synthesizer, name).flip(0))
    permuted, same = synthesizer()
    torch.testing.assert_close(permuted.unflatten(0, (-1, 2)), images.unflatten(0, (-1, 2)).flip(1))
    assert torch.equal(same, targets)


def test_only_codes_and_decoders_that_an_index_names_are_decoded(monkeypatch) -> None:
    synthesizer, sizes = started(), []
    whole = synthesizer()[0]

    def spy(codes, decoders, shape):
        sizes.append((len(codes), len(decoders[0])))
        return latent.decode_pairs(codes, decoders, shape)

    monkeypatch.setattr("ddkit.synthesis.decoders.decode_pairs", spy)
    for index, size in (([9, 1, 9], (2, 1)), ([11, 2, 3], (2, 2)), ([5], (1, 1))):
        torch.testing.assert_close(synthesizer(torch.tensor(index))[0], whole[index], rtol=1e-6, atol=1e-7)
        assert sizes.pop() == size


def test_gradient_of_a_decoder_is_the_sum_over_its_images() -> None:
    synthesizer = started().double()
    weights = torch.randn(12, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    parameters = [getattr(synthesizer, name) for name in WEIGHTS]
    whole = torch.autograd.grad((synthesizer()[0] * weights).sum(), parameters)
    for number, decoder in enumerate(modules(synthesizer)):
        total = [torch.zeros_like(parameter) for parameter in decoder.parameters()]
        for image in range(number, 12, 2):
            loss = (decoder(synthesizer.codes[image // 2, None]) * weights[image]).sum()
            gradients = torch.autograd.grad(loss, list(decoder.parameters()))
            total = [a + b for a, b in zip(total, gradients, strict=True)]
        for mine, summed in zip(whole, total, strict=True):
            torch.testing.assert_close(mine[number], summed, rtol=1e-10, atol=1e-12)


def test_gradient_equals_central_differences() -> None:
    synthesizer = started().double()
    inputs = [synthesizer.codes, *(getattr(synthesizer, name) for name in WEIGHTS)]

    def images(codes, *decoders):
        return latent.decode_pairs(codes, decoders, (1, 7, 8))

    assert torch.autograd.gradcheck(images, inputs, eps=1e-6, atol=1e-6, rtol=1e-6)


def make_identity(synthesizer: SharedDecoders, images: torch.Tensor) -> None:
    """Let codes hold ``images`` in another order, and one decoder put them back: x = (r(x) - r(-x)) / 1.1."""
    channels = images.shape[1]
    with torch.no_grad():
        for name in WEIGHTS:
            getattr(synthesizer, name).zero_().requires_grad_(False)
        for weight, inputs in ((synthesizer.first_weight, 16 * channels), (synthesizer.second_weight, 4 * channels)):
            for number in range(inputs):
                row, column = 1 + number % 4 // 2, 1 + number % 2
                if weight is synthesizer.first_weight:
                    weight[0, number, number // 4, row, column] = 1
                    weight[0, number, 4 * channels + number // 4, row, column] = -1
                else:
                    weight[0, number, number // 4, row, column] = 1 / 1.1
                    weight[0, 4 * channels + number, number // 4, row, column] = -1 / 1.1
        synthesizer.codes.copy_(F.pixel_unshuffle(F.pixel_unshuffle(images, 2), 2))


def matched(synthesizer: Synthesizer, data: RealData, steps: int) -> tuple[list[float], list[torch.Tensor]]:
    """Distribution matching from the same streams in float64: losses and decoded images of every step."""
    streams, augmentation = Streams(0), augment.create("color_crop")
    network = Network(ModelSpec.parse("convnet:width=4,depth=2"), data.shape, data.num_classes)
    network.module.double()
    signal, networks, objective = RealSignal(), FreshNetworks(), DistributionMatching(real_batch=5)
    signal.setup(data, streams, augmentation, 5)
    context = Context(data.num_classes, signal, network, augmentation, streams, networks=networks)
    networks.setup(context)
    objective.setup(context, synthesizer)
    optimiser = torch.optim.SGD(synthesizer.learnable(), lr=0.5, momentum=0.5)
    losses, images = [], []
    for _ in range(steps):
        optimiser.zero_grad()
        losses.append(objective.backward(synthesizer)["loss"])
        optimiser.step()
        images.append(synthesizer()[0].detach().clone())
    return losses, images


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 8, 12)])
def test_identity_decoder_makes_it_plain_distribution_matching(shape) -> None:
    data = toy_data(shape=shape) if shape[0] == 1 else two_channels()
    pixels = Pixels(3, 2, shape).double()
    pixels.initialise(data, "noise", torch.Generator().manual_seed(0))
    options = {"codes": 2, "decoders": 1, "code_channels": 16 * shape[0], "hidden": 8 * shape[0]}
    synthesizer = SharedDecoders(3, 20, shape, **options).double()
    make_identity(synthesizer, pixels.images.detach())
    torch.testing.assert_close(synthesizer()[0], pixels()[0], rtol=1e-14, atol=1e-14)
    losses, images = matched(synthesizer, data, 4)
    expected_losses, expected_images = matched(pixels, data, 4)
    assert losses == pytest.approx(expected_losses, rel=1e-10)
    for mine, expected in zip(images, expected_images, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-10)
    assert not torch.allclose(images[0], images[-1])


def two_channels() -> RealData:
    images = torch.randint(0, 256, (18, 2, 8, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return RealData(images, torch.arange(18) % 3, ("a", "b", "c"), Preprocessing.fit(images), "toy", "train")


@pytest.mark.parametrize(("labels", "kind"), [("hard", "hard"), ("soft", "soft")])
def test_budget_is_what_the_artifact_stores(labels, kind) -> None:
    data = toy_data()
    artifact = started(labels=labels).materialise(data.preprocessing, data.class_names, {})
    assert ("labels" in artifact.stored) == (labels == "soft")
    assert artifact.budget.floats == sum(tensor.numel() for tensor in artifact.stored.values())
    assert artifact.budget.bytes == sum(tensor.nbytes for tensor in artifact.stored.values())
    assert artifact.label_kind == kind and artifact.hard_labels().tolist() == [0] * 4 + [1] * 4 + [2] * 4


@pytest.mark.parametrize("labels", ["hard", "soft"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 14)])
def test_loaded_artifact_decodes_to_the_same_bits(tmp_path, shape, labels) -> None:
    data = toy_data(shape=shape)
    synthesizer = started("real", data=data, labels=labels)
    artifact = synthesizer.materialise(data.preprocessing, data.class_names, {})
    loaded = DistilledDataset.load(artifact.save(tmp_path))
    assert torch.equal(loaded.images, artifact.images) and torch.equal(loaded.labels, artifact.labels)
    torch.testing.assert_close(artifact.images, synthesizer()[0].detach(), rtol=1e-6, atol=1e-6)


def test_warm_start_gives_every_pair_a_real_image_of_its_own() -> None:
    data = toy_data()
    synthesizer = started("real", data=data, warm_steps=150)
    assert torch.equal(data.labels[synthesizer.pairs], synthesizer.classes)
    assert len(set(synthesizer.pairs.tolist())) == len(synthesizer)
    targets = data.batch(synthesizer.pairs)
    images = synthesizer()[0].detach()
    assert (images - targets).square().mean() < 0.3 * started()()[0].sub(targets).square().mean()
    # Every image is nearer to its own target than to that of the same code's other decoder.
    swapped = targets.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
    own, others = ((images - rows).flatten(1).norm(dim=1) for rows in (targets, swapped))
    assert bool((own < others).all())
    assert all(parameter.grad is None for parameter in synthesizer.parameters())


def test_noise_starts_without_pairs_and_as_pytorch_initialises() -> None:
    options = {"codes": 12, "decoders": 8, "code_channels": 3, "hidden": 8}
    synthesizer = SharedDecoders(10, 1, (3, 32, 32), **options)
    real = toy_data(shape=(3, 32, 32), counts=(2,) * 10)
    synthesizer.initialise(real, "noise", torch.Generator().manual_seed(0))
    assert bool((synthesizer.pairs == -1).all())
    assert abs(synthesizer.codes.std().item() - 0.5) < 0.01 and abs(synthesizer.codes.mean().item()) < 0.02
    layers = [nn.ConvTranspose2d(3, 8, 4), nn.ConvTranspose2d(8, 3, 4)]
    for layer, weight in zip(layers, (synthesizer.first_weight, synthesizer.second_weight), strict=True):
        assert weight.abs().max().item() == pytest.approx(layer.weight.abs().max().item(), rel=0.03)
        assert weight.std().item() == pytest.approx(weight.abs().max().item() / 3**0.5, rel=0.03)


@pytest.mark.parametrize("how", ["real", "noise"])
def test_start_follows_the_generator(how) -> None:
    first, same, other = (started(how, seed=seed)()[0] for seed in (1, 1, 2))
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_an_outer_step_sees_the_drawn_decoders_of_every_code() -> None:
    synthesizer = started(decoders=3, batch_decoders=2)
    classes, generator = torch.tensor([2, 0]), torch.Generator().manual_seed(0)
    drawn = [synthesizer.batch_index(classes, generator) for _ in range(20)]
    for index in drawn:
        assert synthesizer.classes[index].tolist() == [2] * 4 + [0] * 4
        decoders = (index % 3).view(-1, 2)
        assert bool((decoders == decoders[0]).all()) and decoders[0, 0] < decoders[0, 1]
    assert {tuple((index[:2] % 3).tolist()) for index in drawn} == {(0, 1), (0, 2), (1, 2)}
    before = generator.get_state()
    everything = started(decoders=3).batch_index(classes, generator)
    assert everything.tolist() == [*range(12, 18), *range(6)] and torch.equal(generator.get_state(), before)


def test_codes_decoders_and_labels_are_groups_of_their_own() -> None:
    groups = started(labels="learned").parameter_groups()
    assert {name: len(group) for name, group in groups.items()} == {"codes": 1, "decoders": 4, "labels": 1}


@pytest.mark.parametrize("method", ["dm", "dc"])
def test_any_objective_trains_codes_and_every_decoder(method) -> None:
    data, synthesizers = toy_data(), []
    for steps in (0, 2):
        synthesizers.append(SharedDecoders(3, IPC, data.shape, **SIZES))
        options = {**SharedDecoders.defaults("gradient"), "model": "convnet:width=4,depth=2", "augmentation": "none"}
        Distiller(method, IPC, steps=steps, synthesizer=synthesizers[-1], objective={"real_batch": 5}, **options).fit(
            data
        )
    start, end = (dict(synthesizer.named_parameters()) for synthesizer in synthesizers)
    assert not torch.equal(start["codes"], end["codes"])
    for name in WEIGHTS:
        assert all(not torch.equal(a, b) for a, b in zip(start[name], end[name], strict=True))
    images = synthesizers[1]()[0].unflatten(0, (-1, 2))
    assert (images[:, 0] - images[:, 1]).square().mean() > 1e-3


def test_resumed_run_draws_the_same_decoders() -> None:
    sizes = {"code_channels": 1, "hidden": 2, "decoders": 2, "codes": 2, "warm_steps": 3, "batch_decoders": 1}
    CHECKS["resumed_run_equals_uninterrupted_run"]("kfs", {"ipc": 3, "synthesis": sizes})


@pytest.mark.parametrize(
    ("ipc", "options", "message"),
    [
        (1, {"codes": None}, r"budget of 192 numbers; the decoders take 296 .* choose ipc >= 2, or lower .*decoders=2"),
        (4, {"codes": 20}, r"codes=20 and 2 decoders take 776 numbers, ipc=4 is a budget of 768: choose codes <= 19"),
        (0, {"codes": None}, "choose ipc >= 2"),
        (4, {"decoders": 0}, "synthesis.decoders=0 must be at least 1"),
        (4, {"codes": 0}, "synthesis.codes=0"),
        (4, {"warm_steps": 0}, "synthesis.warm_steps=0"),
        (4, {"batch_decoders": 3}, "batch_decoders=3 must lie between 1 and synthesis.decoders=2"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(ipc, options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        SharedDecoders(3, ipc, (1, 8, 8), **{**SIZES, **options})


def test_more_images_than_memory_holds_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"the most is 1,073,741,824: lower synthesis\.codes"):
        SharedDecoders(100, 2000, (3, 64, 64), decoders=100)


def test_classes_too_small_for_the_warm_start_are_refused() -> None:
    data = toy_data(counts=(3, 8, 8))
    few = SharedDecoders(3, 3, data.shape, **SIZES)
    with pytest.raises(DataError, match=r"want 4 real .* 'class-0' has 3: choose synthesis\.codes=1 or init=noise"):
        few.check(data, "real")
    few.check(data, "noise")
    with pytest.raises(DataError, match="ipc=4 is larger than class 'class-0'"):
        started("real", data=data)


def test_damaged_stored_tensors_are_refused() -> None:
    synthesizer = started()
    stored, options = synthesizer.stored(), synthesizer.options()
    assert torch.equal(decode("shared-decoders", stored, options)[1], synthesizer()[1])
    for changed, message in (
        ({**options, "num_classes": 4}, "6 codes do not divide among 4 classes"),
        ({**options, "shape": [1, 8, 16]}, "do not make images"),
        ({**options, "shape": [3, 8, 8]}, "do not make images"),
    ):
        with pytest.raises(ArtifactError, match=message):
            decode("shared-decoders", stored, changed)
    many = {**stored, "codes": torch.zeros(1, 2, 2, 2).expand(3 * 10**7, -1, -1, -1)}
    with pytest.raises(ArtifactError, match="where 1,073,741,824 are the most"):
        decode("shared-decoders", many, options)
