"""Does the Siamese augmentation share, draw and differentiate as its paper's equations say?"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ddkit.augment import FAMILIES, Draws, NoAugmentation, SiameseAugmentation, create, default_strategy
from ddkit.errors import ConfigError, DataError, UnknownNameError

ALL = "_".join(FAMILIES)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=dtype)


def draws(strategy: str, *uniform: tuple[float, float, float]) -> Draws:
    return Draws(torch.zeros(len(uniform), dtype=torch.int64), torch.tensor(uniform))


@pytest.mark.parametrize("family", [*FAMILIES, ALL])
@pytest.mark.parametrize("size", [32, 9])
@pytest.mark.parametrize("count", [1, 10, 256])
def test_shared_image_comes_out_bit_identical_from_both_batches(family: str, size: int, count: int) -> None:
    augmentation = SiameseAugmentation(family)
    classes = 4
    shared = images(classes, 1, 3, size, size)
    real = torch.cat([shared, images(classes, count - 1, 3, size, size, seed=1)], 1)
    drawn = augmentation.draw(classes, generator(5))
    small = augmentation.apply(shared.flatten(0, 1), drawn, torch.arange(classes))
    group = torch.arange(classes).repeat_interleave(count)
    large = augmentation.apply(real.flatten(0, 1), drawn, group).unflatten(0, (classes, count))
    assert torch.equal(large[:, 0], small)
    for label in range(classes):
        alone = augmentation.apply(real[label], drawn.select([label]), torch.zeros(count, dtype=torch.int64))
        assert torch.equal(alone, large[label])


def test_sharing_survives_runs_of_unequal_length_and_any_order() -> None:
    augmentation = SiameseAugmentation(ALL)
    drawn = augmentation.draw(6, generator(2))
    group = torch.arange(6).repeat_interleave(torch.tensor([4, 2, 7, 1, 3, 5]))
    x = images(len(group), 3, 16, 16)
    expected = torch.cat([augmentation.apply(x[i : i + 1], drawn, group[i : i + 1]) for i in range(len(group))])
    assert torch.equal(augmentation.apply(x, drawn, group), expected)
    order = torch.randperm(len(group), generator=generator(3))
    assert torch.equal(augmentation.apply(x[order], drawn, group[order]), expected[order])
    sides = torch.cat([x, x[:4]]), torch.cat([group, group[:4]])
    assert torch.equal(augmentation.apply(sides[0], drawn, sides[1])[-4:], expected[:4])


def test_classes_and_steps_draw_differently_and_seeds_repeat() -> None:
    augmentation = SiameseAugmentation(ALL)
    same = images(1, 3, 16, 16).expand(2, -1, -1, -1)
    stream, again = generator(0), generator(0)
    outputs = [augmentation.apply(same, augmentation.draw(2, stream), torch.arange(2)) for _ in range(20)]
    repeated = [augmentation.apply(same, augmentation.draw(2, again), torch.arange(2)) for _ in range(20)]
    assert any(not torch.equal(output[0], output[1]) for output in outputs)
    assert all(torch.equal(a, b) for a, b in zip(outputs, repeated, strict=True))
    assert not torch.equal(outputs[0], outputs[1])


def test_number_of_random_numbers_does_not_depend_on_the_strategy() -> None:
    states = []
    for strategy in ("color", "rotate", ALL):
        stream = generator(1)
        SiameseAugmentation(strategy).draw(7, stream)
        states.append(stream.get_state())
    assert torch.equal(states[0], states[1]) and torch.equal(states[1], states[2])


def test_global_random_state_is_untouched() -> None:
    before = torch.get_rng_state()
    SiameseAugmentation(ALL).train(images(4, 3, 16, 16), generator())
    assert torch.equal(before, torch.get_rng_state())


def test_families_are_drawn_uniformly() -> None:
    counts = SiameseAugmentation(ALL).draw(6000, generator(0)).family.bincount(minlength=6)
    assert len(counts) == 6 and bool(((counts - 1000).abs() <= 150).all())


def test_crop_shifts_are_uniform_on_nine_values() -> None:
    augmentation = SiameseAugmentation("crop")
    x = torch.arange(1.0, 1025.0).view(1, 1, 32, 32)
    drawn = augmentation.draw(9000, generator(0))
    # The centre pixel never leaves the frame's reach, so its new value tells the shift exactly.
    centre = augmentation.apply(x.expand(9000, -1, -1, -1), drawn, torch.arange(9000))[:, 0, 16, 16].long() - 1
    for shift in (centre // 32 - 16, centre % 32 - 16):
        counts = (shift + 4).bincount(minlength=9)
        assert len(counts) == 9 and bool(((counts - 1000).abs() <= 150).all())


@pytest.mark.parametrize("size,values", [(32, 33), (10, 10)])
def test_cutout_centre_may_lie_on_either_border(size: int, values: int) -> None:
    # 10 pixels: the hole is 5 wide, an odd number, so the centre stops at size - 1.
    augmentation = SiameseAugmentation("cutout")
    drawn = augmentation.draw(4000, generator(0))
    out = augmentation.apply(torch.ones(4000, 1, size, size), drawn, torch.arange(4000))[:, 0]
    holes = {tuple(row) for row in (out.amin(dim=2) == 0).long().tolist()}
    assert len(holes) == values


def test_half_uniforms_leave_colours_alone() -> None:
    x = images(3, 3, 8, 8)
    augmentation = SiameseAugmentation("color")
    assert torch.equal(augmentation.apply(x, draws("color", (0.5, 0.5, 0.5)), torch.zeros(3, dtype=torch.int64)), x)


def test_only_the_documented_part_of_a_transform_reaches_the_pixels() -> None:
    x = images(1, 3, 12, 12, dtype=torch.float64)
    group = torch.zeros(1, dtype=torch.int64)

    def run(strategy: str, *uniform: float) -> Tensor:
        return SiameseAugmentation(strategy).apply(x, draws(strategy, uniform), group)  # type: ignore[arg-type]

    mean = x.mean(1, keepdim=True)
    assert torch.allclose(run("color", 0.75, 0.5, 0.5), x + 0.25, rtol=0, atol=1e-14)
    assert torch.allclose(run("color", 0.5, 0.25, 0.5), (x - mean) * 0.5 + mean, rtol=0, atol=1e-14)
    assert torch.allclose(run("color", 0.5, 0.5, 0.75), (x - x.mean()) * 1.25 + x.mean(), rtol=0, atol=1e-14)
    assert torch.equal(run("flip", 0.25, 0, 0), x.flip(-1)) and torch.equal(run("flip", 0.5, 0, 0), x)
    assert torch.equal(run("crop", 0.5, 0.5, 0), x)
    assert torch.allclose(run("rotate", 0.5, 0, 0), x, rtol=0, atol=1e-13)
    low, high = 1 / 1.2, 1.2
    identity = (1 - low) / (high - low)
    assert torch.allclose(run("scale", identity, identity, 0), x, rtol=0, atol=1e-5)


def test_training_form_draws_one_family_a_batch_and_parameters_per_image() -> None:
    augmentation = SiameseAugmentation(ALL)
    families = []
    for seed in range(40):
        drawn = augmentation.draw_train(8, generator(seed))
        families.append(int(drawn.family.unique()))  # one value only, else int() fails
        assert float(drawn.uniform[:, 0].var()) > 0
    assert len(set(families)) > 1
    same = torch.arange(1.0, 1025.0).view(1, 1, 32, 32).expand(64, -1, -1, -1)
    shifted = SiameseAugmentation("crop").train(same, generator())
    assert float(shifted[:, 0, 16, 16].var()) > 0


@pytest.mark.parametrize("strategy", [*FAMILIES, ALL])
def test_train_equals_apply_of_train_draws(strategy: str) -> None:
    augmentation = SiameseAugmentation(strategy)
    x = images(6, 3, 16, 16)
    direct = augmentation.train(x, generator(4))
    assert torch.equal(direct, augmentation.apply(x, augmentation.draw_train(6, generator(4)), torch.arange(6)))


def test_draws_of_several_networks_apply_as_one() -> None:
    augmentation = SiameseAugmentation(ALL)
    x = images(10, 3, 16, 16)
    separate = torch.cat([augmentation.train(x, generator(seed)) for seed in range(5)])
    drawn = Draws.concatenate([augmentation.draw_train(10, generator(seed)) for seed in range(5)])
    assert torch.equal(augmentation.apply(x.repeat(5, 1, 1, 1), drawn, torch.arange(50)), separate)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_passes_gradcheck(family: str) -> None:
    augmentation = SiameseAugmentation(family)
    x = images(4, 2, 8, 9, dtype=torch.float64).requires_grad_()
    drawn = augmentation.draw(2, generator(1))
    group = torch.tensor([0, 0, 1, 1])
    assert torch.autograd.gradcheck(lambda z: augmentation.apply(z, drawn, group), (x,))


@pytest.mark.parametrize("family", ["flip", "crop", "cutout"])
def test_jacobian_of_permutations_and_masks_holds_only_zero_and_one(family: str) -> None:
    augmentation = SiameseAugmentation(family)
    drawn = draws(family, (0.1, 0.8, 0.3))
    x = images(1, 1, 8, 8, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(
        lambda z: augmentation.apply(z, drawn, torch.zeros(1, dtype=torch.int64)), x
    )
    assert set(jacobian.unique().tolist()) == {0.0, 1.0}
    assert bool((jacobian.view(64, 64).sum(1) <= 1).all())


@pytest.mark.parametrize("family", [*FAMILIES, ALL])
def test_meta_gradient_matches_central_differences(family: str) -> None:
    augmentation = SiameseAugmentation(family)
    classes, per_class = 3, 2
    labels = torch.arange(classes).repeat_interleave(per_class)
    real = images(classes * 4, 1, 8, 8, seed=1, dtype=torch.float64)
    theta = (0.1 * images(classes, 64, seed=2, dtype=torch.float64)).requires_grad_()
    drawn = augmentation.draw(classes, generator(11))

    def gradient(x: Tensor, y: Tensor, create_graph: bool) -> Tensor:
        logits = augmentation.apply(x, drawn, y).flatten(1).tanh() @ theta.t()
        return torch.autograd.grad(torch.nn.functional.cross_entropy(logits, y), theta, create_graph=create_graph)[0]

    target = gradient(real, torch.arange(classes).repeat_interleave(4), False)

    def distance(x: Tensor) -> Tensor:
        return (gradient(x, labels, True) - target).square().sum()

    synthetic = images(classes * per_class, 1, 8, 8, seed=3, dtype=torch.float64)
    direction = images(*synthetic.shape, seed=4, dtype=torch.float64)
    leaf = synthetic.clone().requires_grad_()
    (analytic,) = torch.autograd.grad(distance(leaf), leaf)
    step = 1e-5
    plus, minus = distance(synthetic + step * direction), distance(synthetic - step * direction)
    numeric = float((plus - minus).detach()) / (2 * step)
    assert numeric != 0 and float((analytic * direction).sum()) == pytest.approx(numeric, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("family", FAMILIES)
def test_precision_is_kept_and_close_to_float64(family: str, dtype: torch.dtype) -> None:
    augmentation = SiameseAugmentation(family)
    x = images(4, 3, 16, 16, dtype=torch.float64).to(dtype)
    drawn, group = augmentation.draw(2, generator(3)), torch.tensor([0, 0, 1, 1])
    out = augmentation.apply(x, drawn, group)
    exact = augmentation.apply(x.double(), drawn, group)
    assert out.dtype == dtype and out.shape == x.shape
    assert torch.allclose(out.double(), exact, atol=40 * torch.finfo(dtype).eps, rtol=0)


def test_channels_last_input_gives_the_same_pixels() -> None:
    augmentation = SiameseAugmentation(ALL)
    x, drawn = images(12, 3, 16, 16), augmentation.draw(12, generator())
    expected = augmentation.apply(x, drawn, torch.arange(12))
    assert torch.equal(augmentation.apply(x.to(memory_format=torch.channels_last), drawn, torch.arange(12)), expected)


def test_empty_batch_stays_empty() -> None:
    augmentation = SiameseAugmentation(ALL)
    out = augmentation.train(torch.empty(0, 3, 16, 16), generator())
    assert out.shape == (0, 3, 16, 16)


def test_no_augmentation_returns_its_input_and_draws_nothing() -> None:
    augmentation, stream = create("none"), generator()
    before, x = stream.get_state(), images(2, 1, 4, 4)
    assert isinstance(augmentation, NoAugmentation) and augmentation.strategy == "none"
    assert augmentation.train(x, stream) is x and torch.equal(before, stream.get_state())
    assert len(augmentation.draw(3, stream)) == 3


@pytest.mark.parametrize("name", ["mnist", "SVHN", "digits", "sets/mnist.npz"])
def test_digits_are_not_mirrored_by_default(name: str) -> None:
    assert default_strategy(name) == "color_crop_cutout_scale_rotate"


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashionmnist", "/data/flowers"])
def test_other_data_is_mirrored_by_default(name: str) -> None:
    assert default_strategy(name) == "color_crop_cutout_flip_scale_rotate"


def test_strategy_names_are_checked() -> None:
    assert create("Crop_Flip").strategy == "crop_flip"
    with pytest.raises(UnknownNameError, match="did you mean 'cutout'"):
        create("color_cutuot")
    with pytest.raises(UnknownNameError, match="'none'"):
        create("color_none")
    with pytest.raises(ConfigError, match="names no family"):
        create("")
    with pytest.raises(ConfigError, match="repeats a family"):
        create("crop_flip_crop")
    with pytest.raises(ConfigError, match="not a name"):
        create(None)  # type: ignore[arg-type]


def test_constants_have_one_spelling_and_a_range() -> None:
    assert create("rotate", rotate_degrees=30).rotate_degrees == 30.0  # type: ignore[attr-defined]
    with pytest.raises(UnknownNameError, match="ratio_scale"):
        create("scale", ratio_scale=1.2)
    with pytest.raises(ConfigError, match=r"scale_ratio=0\.5"):
        create("scale", scale_ratio=0.5)
    with pytest.raises(ConfigError, match="flip_probability"):
        create("flip", flip_probability=float("nan"))
    with pytest.raises(ConfigError, match="takes no constants"):
        create("none", brightness=1.0)


def test_images_that_cannot_be_augmented_are_refused() -> None:
    augmentation = SiameseAugmentation("crop")
    with pytest.raises(DataError, match="floating"):
        augmentation.train(torch.zeros(2, 3, 16, 16, dtype=torch.uint8), generator())
    with pytest.raises(DataError, match="floating"):
        augmentation.train(torch.zeros(3, 16, 16), generator())
    with pytest.raises(DataError, match="too small"):
        augmentation.train(torch.zeros(2, 3, 16, 7), generator())
    assert augmentation.train(torch.zeros(2, 3, 8, 8), generator()).shape == (2, 3, 8, 8)


def test_groups_that_do_not_fit_the_draws_are_refused() -> None:
    augmentation = SiameseAugmentation("crop_flip")
    x, drawn = images(4, 1, 8, 8), augmentation.draw(2, generator())
    for group in (torch.zeros(3, dtype=torch.int64), torch.zeros(4), torch.tensor([0, 1, 2, 0])):
        with pytest.raises(ConfigError, match="group"):
            augmentation.apply(x, drawn, group)
    foreign = Draws(torch.tensor([5, 5]), drawn.uniform)
    with pytest.raises(ConfigError, match="same augmentation"):
        augmentation.apply(x, foreign, torch.zeros(4, dtype=torch.int64))


def test_check_refuses_or_warns_before_a_run(recwarn: pytest.WarningsRecorder) -> None:
    augmentation = SiameseAugmentation(ALL)
    x = images(64, 3, 8, 8)
    augmentation.check(x, x[:2], class_names=("cat", "dog"))
    SiameseAugmentation("crop").check(x, class_names=("0", "1"))
    assert not len(recwarn)
    with pytest.raises(DataError, match="must agree"):
        augmentation.check(x, x[:, :1])
    with pytest.raises(DataError, match="unit variance"):
        augmentation.check(x.abs() * 60)
    with pytest.raises(DataError, match="NaN"):
        augmentation.check(x / 0)
    with pytest.warns(UserWarning, match="exactly once"):
        augmentation.check(x * 5)
    with pytest.warns(UserWarning, match="leave 'flip' out"):
        augmentation.check(x, class_names=("0", "1"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", FAMILIES)
def test_device_gives_the_same_transform(family: str) -> None:
    augmentation = SiameseAugmentation(family)
    x, drawn = images(8, 3, 32, 32), augmentation.draw(2, generator(1))
    group = torch.arange(2).repeat_interleave(4)
    out = augmentation.apply(x.cuda(), drawn, group)
    assert out.is_cuda and torch.allclose(out.cpu(), augmentation.apply(x, drawn, group), atol=1e-4)
    assert torch.equal(augmentation.apply(x[:1].cuda(), drawn, group[:1]), out[:1])
