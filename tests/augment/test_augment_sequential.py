"""Does the sequential augmentation compose the single transforms in its order, with the promised draws?"""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ddkit.augment import FAMILIES, Draws, SequentialAugmentation, SiameseAugmentation, create
from ddkit.errors import ConfigError, DataError, UnknownNameError

ALL = "+".join(FAMILIES)
MATCHING = "color+crop+cutout"
GEOMETRY = ("crop", "scale", "rotate")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=dtype)


def composed(strategy: str, x: Tensor, drawn: Draws, group: Tensor) -> Tensor:
    """The definition, image by image, out of augmentations of one family each."""
    families = strategy.split("+")
    listed = [family for family in families if family in GEOMETRY]
    results = []
    for image, row in zip(x, group.tolist(), strict=True):
        uniform = drawn.uniform[row].tolist()
        steps = [("flip", [uniform[0], 0, 0]), ("color", uniform[1:4])]
        if listed:
            steps.append((listed[int(drawn.family[row])], [*uniform[4:6], 0]))
        steps.append(("cutout", [*uniform[6:8], 0]))
        image = image[None]
        for family, numbers in steps:
            if family in families:
                one = Draws(torch.zeros(1, dtype=torch.int64), torch.tensor([numbers]))
                image = SiameseAugmentation(family).apply(image, one, torch.zeros(1, dtype=torch.int64))
        results.append(image)
    return torch.cat(results)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("strategy", [ALL, MATCHING, "color+crop+scale+rotate", "cutout+flip", "rotate+scale"])
def test_every_image_is_the_composition_of_single_transforms(strategy: str, dtype: torch.dtype) -> None:
    augmentation = SequentialAugmentation(strategy)
    x = images(24, 3, 16, 12, dtype=dtype)
    drawn = augmentation.draw(12, generator(3))
    group = torch.arange(12).repeat_interleave(2)
    out = augmentation.apply(x, drawn, group)
    assert torch.equal(out, composed(strategy, x, drawn, group))
    assert not torch.equal(out, x)
    trained = augmentation.train(x, generator(4))
    expected = composed(strategy, x, augmentation.draw_train(24, generator(4)), torch.arange(24))
    assert torch.equal(trained, expected)


@pytest.mark.parametrize("count", [1, 10, 64])
def test_shared_image_comes_out_bit_identical_from_both_batches(count: int) -> None:
    augmentation = SequentialAugmentation(ALL)
    classes = 4
    shared = images(classes, 1, 3, 16, 16)
    real = torch.cat([shared, images(classes, count - 1, 3, 16, 16, seed=1)], 1)
    drawn = augmentation.draw(classes, generator(5))
    small = augmentation.apply(shared.flatten(0, 1), drawn, torch.arange(classes))
    group = torch.arange(classes).repeat_interleave(count)
    large = augmentation.apply(real.flatten(0, 1), drawn, group).unflatten(0, (classes, count))
    assert torch.equal(large[:, 0], small)
    for label in range(classes):
        alone = augmentation.apply(real[label], drawn.select([label]), torch.zeros(count, dtype=torch.int64))
        assert torch.equal(alone, large[label])
    assert all(
        not torch.equal(one, other)
        for one, other in pairwise(
            augmentation.apply(shared[:1, 0].expand(classes, -1, -1, -1), drawn, torch.arange(classes))
        )
    )


def test_number_of_random_numbers_depends_neither_on_the_strategy_nor_on_what_is_drawn() -> None:
    for name, rows in (("draw", 7), ("draw_train", 9)):
        states = []
        for strategy in (ALL, MATCHING, "color+flip"):
            stream = generator(1)
            assert getattr(SequentialAugmentation(strategy), name)(rows, stream).uniform.shape == (rows, 8)
            states.append(stream.get_state())
        assert torch.equal(states[0], states[1]) and torch.equal(states[1], states[2])


def test_exactly_one_listed_geometric_family_is_drawn_uniformly() -> None:
    augmentation = SequentialAugmentation(ALL)
    assert augmentation.drawn == ("crop", "scale", "rotate")
    assert SequentialAugmentation("rotate+color+crop").drawn == ("rotate", "crop")
    counts = augmentation.draw(3000, generator(0)).family.bincount(minlength=3)
    assert len(counts) == 3 and bool(((counts - 1000).abs() <= 120).all())


def test_training_form_draws_one_geometric_family_a_batch_and_parameters_per_image() -> None:
    augmentation = SequentialAugmentation(ALL)
    families = set()
    for seed in range(30):
        drawn = augmentation.draw_train(8, generator(seed))
        families.add(int(drawn.family.unique()))  # one value only, else int() fails
        assert bool((drawn.uniform.var(0) > 0).all())
    assert families == {0, 1, 2}


def test_matching_strategy_always_colours_crops_and_cuts_out() -> None:
    # On a constant image: cutout leaves a hole of zeros, colour moves the rest away from 1.
    out = SequentialAugmentation("color+cutout").train(torch.ones(50, 1, 16, 16), generator())
    holes = out == 0
    assert bool(holes.flatten(1).any(1).all())
    assert bool(((out != 1) | holes).flatten(1).any(1).all())


def test_gradient_passes_gradcheck() -> None:
    augmentation = SequentialAugmentation(ALL)
    x = images(6, 2, 8, 9, dtype=torch.float64).requires_grad_()
    drawn, group = augmentation.draw(3, generator(1)), torch.arange(3).repeat_interleave(2)
    assert len(drawn.family.unique()) > 1
    assert torch.autograd.gradcheck(lambda z: augmentation.apply(z, drawn, group), (x,))


def test_draws_of_several_networks_apply_as_one() -> None:
    augmentation = SequentialAugmentation(ALL)
    x = images(10, 3, 16, 16)
    separate = torch.cat([augmentation.train(x, generator(seed)) for seed in range(5)])
    drawn = Draws.concatenate([augmentation.draw_train(10, generator(seed)) for seed in range(5)])
    assert torch.equal(augmentation.apply(x.repeat(5, 1, 1, 1), drawn, torch.arange(50)), separate)


def test_constants_reach_the_transforms() -> None:
    x = images(4, 3, 8, 8)
    mirrored = create("flip+color", flip_probability=1, brightness=0, saturation=0, contrast=1)
    drawn = mirrored.draw(4, generator())
    grey = x.flip(-1).mean(1, keepdim=True).expand_as(x)
    factor = (drawn.uniform[:, 3] + 1).view(4, 1, 1, 1)
    mean = grey.mean((1, 2, 3), keepdim=True)
    out = mirrored.apply(x, drawn, torch.arange(4))
    torch.testing.assert_close(out, (grey - mean) * factor + mean, rtol=0, atol=1e-5)


def test_names_decide_between_the_two_forms() -> None:
    assert isinstance(create(MATCHING), SequentialAugmentation) and create("Color+Crop").strategy == "color+crop"
    assert isinstance(create("color"), SiameseAugmentation)
    assert isinstance(create("color_crop"), SiameseAugmentation)
    with pytest.raises(ConfigError, match="both '\\+' and '_'"):
        create("color+crop_cutout")
    with pytest.raises(UnknownNameError, match="did you mean 'cutout'"):
        create("color+cutuot")
    with pytest.raises(ConfigError, match="repeats a family"):
        create("crop+flip+crop")
    with pytest.raises(UnknownNameError, match="sequential augmentation"):
        create("color+scale", ratio_scale=1.2)
    with pytest.raises(ConfigError, match=r"scale_ratio=0\.5 must lie in \[1, 10\]"):
        create("color+scale", scale_ratio=0.5)


def test_draws_of_another_augmentation_are_refused() -> None:
    x, group = images(2, 3, 8, 8), torch.arange(2)
    sequential, siamese = SequentialAugmentation(ALL), SiameseAugmentation("crop_flip")
    for augmentation, foreign in (
        (sequential, siamese.draw(2, generator())),
        (siamese, sequential.draw(2, generator())),
        (SequentialAugmentation(MATCHING), Draws(torch.tensor([0, 2]), torch.rand(2, 8, generator=generator()))),
    ):
        with pytest.raises(ConfigError, match="same augmentation"):
            augmentation.apply(x, foreign, group)


def test_check_knows_unsuitable_images_and_mirrored_digits() -> None:
    x = images(64, 3, 8, 8)
    with pytest.raises(DataError, match="unit variance"):
        SequentialAugmentation(MATCHING).check(x.abs() * 60)
    with pytest.warns(UserWarning, match="leave 'flip' out"):
        SequentialAugmentation("flip+crop").check(x, class_names=("0", "1"))
