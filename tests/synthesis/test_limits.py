"""Is what decoding takes known before anything is decoded, for every synthesis, and is too much refused?"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ddkit import synthesis
from ddkit.data.distilled import syntheses
from ddkit.data.distilled.limits import EXPANSION, MOST_NUMBERS, ROOM, Decoding, check_decoding, most_numbers
from ddkit.data.real import RealData
from ddkit.errors import ArtifactError, ConfigError
from ddkit.synthesis import (
    AddressedMemory,
    GANCodes,
    Hallucinators,
    MultiFormation,
    Pixels,
    SharedDecoders,
    Synthesizer,
)

SHAPE = (1, 8, 8)
SMALL = {
    "pixels": lambda: Pixels(3, 2, SHAPE),
    "addressed-memory": lambda: AddressedMemory(3, 2, SHAPE),
    "multi-formation": lambda: MultiFormation(3, 2, (1, 16, 16)),
    "shared-decoders": lambda: SharedDecoders(3, 6, SHAPE, codes=2, decoders=2, hidden=2, code_channels=1),
    "hallucinators": lambda: Hallucinators(3, 2, SHAPE, hallucinators=2),
    "gan": lambda: GANCodes(3, 2, SHAPE, code_size=3, width=4),
}


def bomb(name: str, stored: dict[str, Tensor], options: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Change a small file so that it decodes to gigabytes; every tensor of it stays below 100 MB."""
    zeros = torch.zeros
    if name == "addressed-memory":
        return {"bases": zeros(2, 1, 1, 1), "addressing": zeros(300, 2)}, {**options, "shape": [1, 2000, 2000]}
    if name == "multi-formation":
        return {"images": zeros(6, 1, 440, 440)}, {**options, "factor": 110}
    if name == "shared-decoders":
        return {**stored, "codes": zeros(3, 1, 1000, 1000)}, {**options, "shape": [1, 4000, 4000]} | {"num_classes": 3}
    if name == "hallucinators":
        return {**stored, "bases": zeros(1, 1, 1, 1).expand(12 * 10**6, 1, 8, 8)}, options
    return {**stored, "codes": zeros(3 * 10**7, 3), "labels": zeros(3 * 10**7, dtype=torch.int64)}, options


@pytest.mark.parametrize("name", SMALL)
def test_what_decoding_takes_is_known_beforehand(name: str) -> None:
    made = SMALL[name]()
    stored, options = made.stored(), made.options()
    decoding = type(made).decoding(stored, options)
    syntheses.decode(name, stored, options, announced=len(made))
    images, _ = synthesis.decode(name, stored, options)
    assert (decoding.images, *decoding.shape) == tuple(images.shape) and decoding.numbers == images.numel()


@pytest.mark.parametrize("name", [name for name in SMALL if name != "pixels"])
def test_bombs_are_refused_before_they_are_decoded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = SMALL[name]()
    stored, options = bomb(name, made.stored(), made.options())
    if name == "shared-decoders":  # few images through maps of gigabytes
        stored["first_weight"], stored["first_bias"] = torch.zeros(1, 1, 4000, 4, 4), torch.zeros(1, 4000)
        stored["second_weight"], stored["second_bias"] = torch.zeros(1, 4000, 1, 4, 4), torch.zeros(1, 1)
    monkeypatch.setattr(type(made), "from_stored", staticmethod(lambda *_: pytest.fail("decoded")))
    with pytest.raises(ArtifactError, match=r"are the most|at once") as caught:
        synthesis.decode(name, stored, options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", SMALL)
def test_another_number_of_images_than_announced_is_refused(name: str) -> None:
    made = SMALL[name]()
    with pytest.raises(ArtifactError, match=f"decode to {len(made)} images, the budget announces 5"):
        syntheses.decode(name, made.stored(), made.options(), announced=5)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("multi-formation", {"factor": 10**9}),
        ("multi-formation", {"ipc": True}),
        ("multi-formation", {"decode_type": ["single"]}),
        ("multi-formation", {"mean": [0.0] * 10**5}),
        ("addressed-memory", {"shape": [1, -8, -8]}),
        ("addressed-memory", {"num_classes": 3.0}),
        ("hallucinators", {"shape": "188"}),
        ("gan", {"scale": 1.0}),
        ("gan", {"width": 10**30}),
        ("gan", {"width": 2**31}),
        ("gan", {"num_classes": 2**62}),
    ],
)
def test_options_that_no_run_writes_are_refused(name: str, changed: dict[str, Any]) -> None:
    made = SMALL[name]()
    with pytest.raises(ArtifactError):
        synthesis.decode(name, made.stored(), {**made.options(), **changed})


@pytest.mark.parametrize("name", [name for name in SMALL if name != "pixels"])
def test_a_missing_tensor_is_named(name: str) -> None:
    made = SMALL[name]()
    with pytest.raises(ArtifactError):
        synthesis.decode(name, {"labels": torch.zeros(6)}, made.options())


def test_small_files_have_room_and_large_ones_a_cap() -> None:
    assert most_numbers(1) == ROOM and most_numbers(2**18) == 2**18 * EXPANSION and most_numbers(2**40) == MOST_NUMBERS


def test_a_run_cannot_learn_what_could_not_be_loaded() -> None:
    with pytest.raises(ConfigError, match=r"set synthesis\.rows"):
        AddressedMemory(2, 1, (3, 128, 128), bases=1)
    with pytest.raises(ConfigError, match=r"lower ipc or synthesis\.factor"):
        MultiFormation(1000, 10, (3, 224, 224), factor=2)


class Sums(Synthesizer):
    """Images that are sums of ``terms`` tensors, decoded by what the base class does."""

    name = "sums"

    def __init__(self, num_classes: int, ipc: int, shape: tuple[int, int, int], terms: int = 2) -> None:
        super().__init__(num_classes, ipc, shape)
        self.terms = terms
        self.parts = nn.Parameter(torch.rand(len(self), terms, *shape))

    def decode(self, index: Tensor) -> Tensor:
        return self.parts[index].sum(1)

    def initialise(self, real: RealData, how: str, generator: torch.Generator) -> None:
        self.parts.data.copy_(torch.rand(self.parts.shape, generator=generator))

    def options(self) -> dict[str, Any]:
        return {**super().options(), "terms": self.terms}


def test_decoding_of_the_base_class_rebuilds_the_synthesizer() -> None:
    made = Sums(3, 2, SHAPE, terms=3)
    images, classes = Sums.from_stored(made.stored(), made.options())
    assert torch.equal(images, made()[0]) and torch.equal(classes, made.classes)
    assert Sums.decoding(made.stored(), made.options()) == Decoding(6, SHAPE)


@pytest.mark.parametrize("change", [{"terms": 10**12}, {"terms": 1}, {"ipc": 10**9}, {"shape": [1, 8]}, {"ipc": "2"}])
def test_options_that_the_tensors_contradict_allocate_nothing(change: dict[str, Any]) -> None:
    made = Sums(3, 2, SHAPE)
    with pytest.raises(ArtifactError, match=r"write the file anew|would decode to|are too many"):
        expected = Sums.decoding(made.stored(), {**made.options(), **change})
        assert expected is not None
        check_decoding(expected, made.stored())
        Sums.from_stored(made.stored(), {**made.options(), **change})
