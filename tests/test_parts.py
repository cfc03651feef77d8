"""Do sets of parts of the classes find their place among all, at rest and in unions?"""

from __future__ import annotations

import pytest
import torch

from ddkit import Distiller
from ddkit.codecs import Uniform, encode, lossless
from ddkit.data import Preprocessing, RealData, load_pair
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.distilled.parts import at_rest, relabelled, union
from ddkit.errors import ArtifactError, DataError

NAMES = tuple("abcd")


def small(labels: list[int], kind: str = "hard", classes: int = 2, **more: object) -> DistilledDataset:
    generator = torch.Generator().manual_seed(len(labels))
    images = torch.randn(len(labels), 1, 4, 4, generator=generator)
    tensor = torch.tensor(labels)
    rows = torch.nn.functional.one_hot(tensor, classes).float() * 0.8 + 0.2 / classes
    return DistilledDataset(
        images,
        tensor if kind == "hard" else rows,
        class_names=NAMES[:classes],
        preprocessing=Preprocessing(mean=(0.4,), std=(0.3,)),
        label_kind=kind,  # type: ignore[arg-type]
        **more,  # type: ignore[arg-type]
    )


def test_only_numbers_classes_anew_in_the_given_order() -> None:
    train, _ = load_pair("digits")
    part = train.only([7, 2])
    assert part.class_names == ("7", "2")
    for new, old in enumerate((7, 2)):
        images = train.images[train.class_index[old]]
        assert torch.equal(part.images[part.class_index[new]], images)
    assert part.preprocessing == train.preprocessing


@pytest.mark.parametrize("classes", [[], [1, 1], [10], [-1]])
def test_only_refuses_classes_that_are_not_there(classes: list[int]) -> None:
    train, _ = load_pair("digits")
    with pytest.raises(DataError):
        train.only(classes)


def test_only_refuses_a_class_without_images() -> None:
    real = RealData.from_tensors(
        torch.zeros(4, 1, 8, 8, dtype=torch.uint8), [0, 0, 0, 0], num_classes=2, allow_missing=True
    )
    with pytest.raises(DataError, match="class 1 has no images"):
        real.only([0, 1])


def test_relabelled_hard_and_soft_labels_name_the_same_classes() -> None:
    order = {"order": {"classes": [0, 1], "per_class": 1}}
    hard = relabelled(small([0, 1]), [3, 1], NAMES)
    soft = relabelled(small([0, 1], "soft", metadata=order), [3, 1], NAMES)
    assert hard.labels.tolist() == [3, 1]
    assert torch.allclose(soft.labels, torch.tensor([[0, 0.1, 0, 0.9], [0, 0.9, 0, 0.1]]))
    assert soft.started_as().tolist() == [3, 1]
    assert hard.class_names == soft.class_names == NAMES


@pytest.mark.parametrize("places", [[0], [1, 1], [0, 4], [-1, 0]])
def test_relabelled_refuses_places_that_do_not_fit(places: list[int]) -> None:
    with pytest.raises(ArtifactError):
        relabelled(small([0, 1]), places, NAMES)


def test_at_rest_is_within_half_a_level_of_the_clipped_images() -> None:
    full = small([0, 1, 1])
    rest = at_rest(full)
    assert rest.images.dtype == torch.uint8
    assert (rest.viewable() - full.viewable()).abs().max() <= 0.5 / 255 + 1e-6
    outside = ((full.unclipped() < 0) | (full.unclipped() > 1)).float().mean()
    assert rest.metadata["clipped"] == pytest.approx(float(outside), abs=1e-6) and outside > 0
    assert rest.budget.payload == 3 * 16


def test_at_rest_soft_labels_are_float16_and_cost_what_a_file_keeps_of_them() -> None:
    rest = at_rest(small([0, 1], "soft"))
    assert torch.equal(rest.labels, rest.labels.half().float())
    assert rest.budget.payload == 2 * (16 + 4 * 2)


def test_at_rest_keeps_the_symbols_of_eight_bits_over_the_range_of_pixels() -> None:
    pixels = torch.rand(5, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    pixels[0, :, 0, 0], pixels[0, :, 0, 1] = 0, 1
    full = DistilledDataset(pixels, torch.zeros(5).long(), class_names=["a"], preprocessing=Preprocessing.identity(2))
    rest, entry = at_rest(full), encode(Uniform(8, coder="raw"), at_rest(full).viewable())
    symbols = lossless.decode(entry.parts["symbols"].numpy().tobytes(), entry.entry, (5, 2, 4, 4), 8)
    assert torch.equal(symbols, rest.images)
    assert full.coded("uniform:bits=8,coder=raw").budget.payload == rest.budget.payload + 2 * 4  # ends and steps


def test_union_keeps_images_labels_and_what_was_meant() -> None:
    a, b = relabelled(small([0, 1]), [0, 1], NAMES), relabelled(small([0, 0, 1]), [3, 2], NAMES)
    both = union([a, b])
    assert both.labels.tolist() == [0, 1, 3, 3, 2] == both.started_as().tolist()
    assert torch.equal(both.images, torch.cat([a.images, b.images]))
    assert both.budget.bytes == a.budget.bytes + b.budget.bytes


def test_union_of_hard_and_soft_labels_is_soft() -> None:
    both = union([small([0, 1]), small([1, 0], "soft")])
    assert both.label_kind == "soft"
    assert torch.allclose(both.labels, torch.tensor([[1, 0], [0, 1], [0.1, 0.9], [0.9, 0.1]]))


def test_union_of_bytes_stays_bytes_and_survives_the_disk(tmp_path) -> None:
    both = union([at_rest(small([0, 1])), at_rest(small([1, 1, 0]))])
    assert both.images.dtype == torch.uint8
    again = DistilledDataset.load(both.save(tmp_path / "set.safetensors"))
    assert torch.equal(again.images, both.images) and again.started_as().tolist() == [0, 1, 1, 1, 0]


def test_union_refuses_sets_that_do_not_fit() -> None:
    with pytest.raises(ArtifactError, match="at least one"):
        union([])
    with pytest.raises(ArtifactError, match="does not join"):
        union([small([0, 1]), small([0, 1, 2], classes=3)])


def test_distilling_parts_gives_a_set_of_all_classes() -> None:
    train, _ = load_pair("digits")
    parts = []
    for classes in ([0, 1], [5, 9, 3]):
        distilled = Distiller("dm", 2, seed=1, steps=2, model="mlp:width=16").fit(train.only(classes))
        parts.append(at_rest(relabelled(distilled, classes, train.class_names)))
    both = union(parts)
    assert both.hard_labels().tolist() == [0, 0, 1, 1, 5, 5, 9, 9, 3, 3]
    assert both.num_classes == 10 and both.metadata["method"] == "dm"
