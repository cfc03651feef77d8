"""Do the controls at equal bytes hold as many real images as fit, and are they what decodes?"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import PIL
import pytest
import torch
from torch import Tensor

from ddkit.codecs import encode, registry
from ddkit.data import RealData
from ddkit.data.coresets import herding_indices
from ddkit.data.coresets.features import pixel_features
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.errors import ConfigError, UnknownNameError
from ddkit.evaluation import baseline_sets, images_per_class_for_bytes
from ddkit.evaluation import coded_reals as reals
from ddkit.evaluation.baselines import AT_EQUAL_BYTES, expanded
from ddkit.testing import toy_data

from .conftest import random_set

Pair = tuple[RealData, RealData]
QUICK: dict[str, Any] = {"model": "mlp:width=4", "passes": 1}


def built(train: RealData, distilled: DistilledDataset, kind: str, draws: int = 1, **search: Any) -> Any:
    sets = baseline_sets(train, distilled, (kind,), draws=draws, **{**QUICK, **search})[kind]
    assert isinstance(sets, list)
    return sets[0] if draws == 1 else sets


def like(one: DistilledDataset, images: Tensor, labels: Tensor) -> DistilledDataset:
    return DistilledDataset(images, labels, class_names=one.class_names, preprocessing=one.preprocessing)


def by_class(one: DistilledDataset) -> list[list[int]]:
    labels, index = one.hard_labels().tolist(), one.metadata["indices"]
    return [[i for i, c in zip(index, labels, strict=True) if c == k] for k in range(one.num_classes)]


def coded_size(train: RealData, index: Tensor, codec: str, **options: Any) -> int:
    return encode(registry.create(codec, options), train.batch(index)).nbytes


# --- how many fit ---------------------------------------------------------------------------------------------------


def test_random_bytes_fill_the_payload_and_not_more(digits: Pair) -> None:
    train, _ = digits
    distilled = random_set(train, 2)
    one = built(train, distilled, "random-bytes")
    assert distilled.budget.payload == 20 * 64 * 4 and one.budget.payload == distilled.budget.payload
    assert one.ipc == 8 and one.images.dtype == torch.uint8
    small = built(train, distilled.coded("uniform:bits=8,coder=raw"), "random-bytes")  # 1280 bytes and one range
    assert small.ipc == 2 and small.budget.payload == 20 * 64


def test_raw_images_fit_to_the_byte_and_small_classes_give_all() -> None:
    train = toy_data(counts=(9, 2, 11))
    assert images_per_class_for_bytes(train, 3 * 64) == 1
    assert images_per_class_for_bytes(train, 6 * 64 - 1) == 1
    assert images_per_class_for_bytes(train, 6 * 64) == 2
    assert images_per_class_for_bytes(train, 8 * 64) == 3  # 3 + 2 + 3
    assert images_per_class_for_bytes(train, 20 * 64) == 9 and images_per_class_for_bytes(train, 10**9) == 11
    with pytest.raises(
        ConfigError, match=r"191 bytes do not hold one real image of each of 3 classes: 8 bits .* take 192"
    ):
        images_per_class_for_bytes(train, 3 * 64 - 1)


@pytest.mark.parametrize("codec", ["uniform:bits=3", "dct:step=0.5", "uniform:bits=2,group=image", "float16"])
def test_coded_reals_fit_in_the_sets_own_codec_and_the_next_image_does_not(digits: Pair, codec: str) -> None:
    train, _ = digits
    distilled = random_set(train, 5).coded(codec)
    one = built(train, distilled, "random-coded")
    assert one.coding is not None and one.coding.codec == codec == one.metadata["form"]
    assert one.budget.payload == one.budget.bytes == one.coding.nbytes <= distilled.budget.payload
    assert len({len(members) for members in by_class(one)}) == 1
    assert torch.equal(one.tensors()[0], one.coding.decoded(10)["images"])  # what is evaluated is what decodes
    order = reals_order(train, "random-coded")
    name, _, options = codec.partition(":")
    settings = dict(option.split("=") for option in options.split(",") if option)
    assert coded_size(train, order(one.ipc), name, **settings) == one.budget.payload
    assert torch.equal(order(one.ipc), torch.tensor(one.metadata["indices"]))
    assert coded_size(train, order(one.ipc + 1), name, **settings) > distilled.budget.payload


def reals_order(train: RealData, kind: str) -> Any:
    from ddkit.base.streams import Streams
    from ddkit.evaluation.form_search import random_order

    return random_order(train, Streams(0)(f"baseline/{kind}/0"))


def test_beside_a_set_that_is_not_coded_reals_are_coded_without_loss_of_bits(digits: Pair) -> None:
    train, _ = digits
    distilled = random_set(train, 2)
    one = built(train, distilled, "random-coded")
    assert one.metadata["form"] == "uniform:bits=8" and one.ipc > 8  # more than raw ones


def test_more_bytes_give_prefixes_of_one_order_and_draws_differ(digits: Pair) -> None:
    train, _ = digits
    few, many = (random_set(train, ipc).coded("uniform:bits=3") for ipc in (2, 6))
    for kind in ("random-coded", "herding-coded"):
        small, large = (by_class(built(train, one, kind)) for one in (few, many))
        assert all(len(s) < len(b) and b[: len(s)] == s for s, b in zip(small, large, strict=True)), kind
    first, second = built(train, few, "random-coded", draws=2)
    assert first.metadata["indices"] != second.metadata["indices"]
    again = built(train, few, "random-coded", draws=2)
    assert [one.metadata["indices"] for one in again] == [one.metadata["indices"] for one in (first, second)]
    assert torch.equal(again[1].images, second.images)


def test_herded_reals_are_in_herded_order(digits: Pair) -> None:
    train, _ = digits
    one = built(train, random_set(train, 3).coded("uniform:bits=4"), "herding-coded")
    herded = herding_indices(pixel_features(train), train.class_index, one.ipc)
    assert one.metadata["indices"] == herded.tolist()


def test_small_classes_give_all_that_they_have() -> None:
    train = toy_data(counts=(30, 2, 25))
    beside = random_set(train, 2)
    for kind in ("random-coded", "herding-coded", "random-best"):
        one = built(train, beside, kind, forms=["uniform:bits=2"])
        counts = torch.bincount(one.hard_labels(), minlength=3).tolist()
        assert counts[1] == 2 and counts[0] > 2 and counts[2] == min(25, counts[0]), (kind, counts)
        assert one.budget.payload <= beside.budget.payload


def test_whitening_is_carried_by_both_sides(digits: Pair) -> None:
    plain = digits[0]
    train = plain.whitened("standardised")
    whitening = sum(tensor.nbytes for tensor in train.preprocessing.to_tensors().values())
    distilled = random_set(train, 2)
    assert distilled.budget.payload == 20 * 64 * 4 + whitening
    for kind in ("random-bytes", "random-coded"):
        one = built(train, distilled, kind)
        assert whitening < one.budget.payload <= distilled.budget.payload
    assert built(train, distilled, "random-bytes").ipc == 8
    form = built(train, distilled, "random-best", forms=["webp:quality=30,resolution=2"])
    assert form.budget.payload == form.metadata["picture"]["bytes"] + whitening <= distilled.budget.payload


def test_too_few_bytes_are_refused_with_what_the_smallest_form_takes(digits: Pair) -> None:
    train, _ = digits
    images, labels = random_set(train, 1).tensors()
    images[:, :, 3:] = images.min()
    tiny = like(random_set(train, 1), images, labels).coded("uniform:bits=1")
    available = tiny.budget.payload
    assert available is not None and available < 70
    with pytest.raises(
        ConfigError, match=rf"{available} bytes do not hold .* 10 classes: 8 bits a value take 640; leave"
    ):
        built(train, tiny, "random-bytes")
    with pytest.raises(ConfigError, match=rf"{available} bytes .*: uniform:bits=1 takes \d\d; leave"):
        built(train, tiny, "random-coded")
    said: list[str] = []
    sets = baseline_sets(train, tiny, ("bytes",), report=said.append, forms=["uniform:bits=1,resolution=4"], **QUICK)
    assert list(sets) == ["random-best"]
    assert said[0].startswith(f"'random-bytes' is left out: {available} bytes do not") and "take 640" in said[0]
    assert "'random-coded' is left out" in said[1] and "'herding-coded' is left out" in said[2]
    with pytest.raises(ConfigError, match="uniform:bits=8, the smallest form"):
        baseline_sets(train, tiny, ("bytes",), forms=["uniform:bits=8"], **QUICK)
    with pytest.raises(
        ConfigError, match=rf"{available} bytes .*: jpeg:quality=10,resolution=4, the smallest form, takes \d\d\d"
    ):
        built(train, tiny, "random-best", forms=["jpeg:quality=75,resolution=4", "jpeg:quality=10,resolution=4"])


# --- forms ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form", ["jpeg:quality=30", "webp:quality=80", "jpeg:quality=75,resolution=2", "webp:quality=50,resolution=4"]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_decode_to_the_recorded_pixels(form: str, channels: int) -> None:
    train = toy_data((channels, 8, 8), counts=(40, 40, 40))
    one = built(train, random_set(train, 12), "random-best", forms=[form])
    recorded = one.metadata["picture"]
    assert one.images.dtype == torch.uint8 and reals.sha256(one.images) == recorded["sha256"]
    assert recorded["pillow"] == PIL.__version__ and one.coding is None
    kept = reals.form_of(form).keep(train.images[torch.tensor(one.metadata["indices"])], train.preprocessing)
    assert kept.nbytes == recorded["bytes"] == one.budget.payload <= 36 * 64 * channels * 4
    assert reals.sha256(kept.decoded()) == recorded["sha256"]
    assert one.metadata["form"] == form


def test_a_picture_puts_every_image_back_in_its_place() -> None:
    levels = torch.arange(7).mul(36).to(torch.uint8)  # one grey a picture: a sheet with two tiles left over
    for kind in ("jpeg", "webp"):
        form = reals.form_of(f"{kind}:quality=90")
        images = levels[:, None, None, None].expand(7, 1, 8, 16).contiguous()
        back = form.keep(images, random_set(toy_data(), 1).preprocessing).decoded()
        assert back.shape == images.shape and int((back.int() - images.int()).abs().max()) <= 4
    tall = torch.randint(0, 256, (5, 3, 16, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert (
        reals.form_of("jpeg:quality=90").keep(tall, random_set(toy_data(), 1).preprocessing).decoded().shape
        == tall.shape
    )


def test_lower_resolution_averages_areas() -> None:
    form = reals.form_of("uniform:bits=8,resolution=2")
    images = torch.randint(0, 256, (4, 1, 9, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    preprocessing = random_set(toy_data(), 1).preprocessing
    kept = form.keep(images, preprocessing)
    assert kept.decoded().shape == images.shape
    full = reals.form_of("uniform:bits=8").keep(images, preprocessing)
    assert kept.nbytes < full.nbytes / 2
    flat = torch.full((4, 1, 9, 8), 77, dtype=torch.uint8)
    flat[2:] = 200
    torch.testing.assert_close(form.keep(flat, preprocessing).decoded(), preprocessing.apply(flat), atol=0.01, rtol=0)


def test_all_forms_have_their_own_names_and_can_be_read_back() -> None:
    names = reals.all_forms()
    assert len(set(names)) == len(names) and [reals.form_of(name).name for name in names] == names
    kinds = {name.split(":")[0] for name in names}
    assert kinds == {"uniform", "dct", "jpeg", "webp"}
    assert {name.split("=")[1].split(",")[0] for name in names if name.startswith("uniform")} == set("84321")


@pytest.mark.parametrize(
    "text, message",
    [
        ("unifrom:bits=2", "did you mean 'uniform'"),
        ("jpeg:quality=0", "1 to 95"),
        ("jpeg", "quality"),
        ("jpeg:bits=3", "'bits'"),
        ("uniform:bits=9", "bits"),
        ("uniform:bits=2,resolution=3", "resolution"),
        ("uniform:bits=2,resolution=x", "resolution"),
    ],
)
def test_forms_that_are_none_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        reals.form_of(text)


def test_forms_say_which_images_they_suit() -> None:
    assert not reals.form_of("palette").suits((1, 1, 8, 8)) and reals.form_of("palette").suits((1, 3, 8, 8))
    assert not reals.form_of("jpeg:quality=50").suits((1, 2, 8, 8))
    assert not reals.form_of("uniform:resolution=4").suits((1, 1, 3, 3))
    assert not reals.form_of("webp:quality=50").suits((2**22, 1, 8, 16))
    assert reals.form_of("webp:quality=50,resolution=2").suits((2**22, 1, 8, 16))


# --- counting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overhead, each", [(0, 10), (600, 7), (3, 1)])
@pytest.mark.parametrize("available", [1, 5, 10, 607, 608, 1234, 99_999])
def test_counting_finds_the_most_with_few_sizes(overhead: int, each: int, available: int) -> None:
    asked: list[int] = []

    def size(n: int) -> int:
        asked.append(n)
        return overhead + each * n

    expected = max(0, min(5000, (available - overhead) // each))
    assert reals.most_that_fit(size, available, 5000) == expected
    assert len(set(asked)) == len(asked) <= 8 and all(1 <= n <= 5000 for n in asked)


def test_counting_bears_sizes_that_are_not_monotone() -> None:
    def size(n: int) -> int:
        return int(50 * math.sqrt(n)) + 13 * (n % 3)

    for available in range(60, 1500, 37):
        n = reals.most_that_fit(size, available, 900)
        assert size(n) <= available and (n == 900 or size(n + 1) > available)
        near = reals.most_that_fit(size, available, 900, slack=0.1)
        assert size(near) <= available and (near == 900 or size(math.ceil(1.1 * near) + 1) > 0.9 * available)


def test_counting_with_slack_measures_fewer_sizes() -> None:
    def asked(slack: float) -> int:
        sizes: list[int] = []
        reals.most_that_fit(lambda n: sizes.append(n) or 40 + int(9 * n**0.97), 9000, 5000, slack)
        return len(sizes)

    assert asked(0.03) < asked(0.0)


def test_bytes_stands_for_all_four() -> None:
    assert expanded(["bytes", "whole", "random-coded"]) == [*AT_EQUAL_BYTES, "whole"]
    assert expanded(["random-best", "bytes"])[0] == "random-best" and len(expanded(["random-best", "bytes"])) == 4


def test_the_old_herding_at_raw_bytes_is_gone(digits: Pair) -> None:
    with pytest.raises(UnknownNameError, match="herding-bytes"):
        baseline_sets(digits[0], random_set(digits[0], 1), ("herding-bytes",))


def test_the_forms_that_recipes_name_are_forms() -> None:
    text = (Path(__file__).parents[2] / "recipes" / "quickstart.yaml").read_text()
    (listed,) = re.findall(r"forms: \[(.*)\]", text)
    names = [name.strip().strip('"') for name in re.split(r", (?=[\"a-z]+:)", listed)]
    assert len(names) > 3 and [reals.form_of(name).name for name in names] == names
