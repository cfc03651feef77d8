"""Is a device that is not there, or a compiler that does not work, known before work starts?"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ddkit import Distiller, evaluate
from ddkit.base.device import memory_errors, resolve_device, why_not_compile
from ddkit.base.precision import COMPILE_PAYS_SECONDS, PassCost, Precision, resolve_precision
from ddkit.cli.doctor import examine
from ddkit.errors import ConfigError, RunError
from ddkit.evaluation import evaluate_real
from ddkit.models import ModelSpec
from ddkit.networks.network import Network
from ddkit.testing.small import toy_data
from ddkit.training import TrainingRecipe, train_networks

CPU = torch.device("cpu")
COST = PassCost(multiply_adds=10**9, activations=10**6, largest_activation=10**6)
LONG = 2 * COMPILE_PAYS_SECONDS / COST.eager_seconds(CPU)
QUICK = TrainingRecipe(name="quick", epochs=1)
TINY = "convnet:depth=1,width=4"


@pytest.fixture
def anew() -> Iterator[None]:
    why_not_compile.cache_clear()
    yield
    why_not_compile.cache_clear()


def _no_compiler() -> str:
    raise RuntimeError("what PyTorch says where it finds none")


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_images_have_their_channels_first(channels: int) -> None:
    network = Network(ModelSpec.parse(TINY), (channels, 8, 8), 2)
    images = torch.rand(2, channels, 8, 8).requires_grad_()
    prepared, maps = network.prepare(images), network.feature_maps(images)
    last = {"memory_format": torch.channels_last}
    assert prepared.stride(1) == (64 if channels == 1 else 1)
    assert all(one.is_contiguous(**last) == (channels == 3) for one in maps if one.ndim == 4)
    maps[0].sum().backward()
    assert images.grad is not None


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta", "hpu", "", "cpu:x"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="choose"):
        resolve_device(name)


def test_every_way_to_train_refuses_it_alike() -> None:
    data, test = toy_data(), toy_data(seed=1, split="test")
    distilled = Distiller("random", 1).fit(data)
    for train in (
        lambda device: evaluate(distilled, test, (TINY,), 1, QUICK, device=device),
        lambda device: evaluate_real(data, test, (TINY,), 1, QUICK, device=device),
        lambda device: train_networks(data, None, ModelSpec.parse(TINY), QUICK, [0], num_classes=3, device=device),
    ):
        train("auto")
        with pytest.raises(ConfigError, match="meta"):
            train("meta")


def test_memory_that_does_not_suffice_is_one_sentence() -> None:
    with pytest.raises(RunError, match="does not suffice to train"), memory_errors("train", CPU):
        torch.empty(2**55)
    with pytest.raises(RuntimeError, match="size"), memory_errors("train", CPU):
        torch.ones(2) + torch.ones(3)


@pytest.mark.usefixtures("anew")
def test_without_a_compiler_long_runs_stay_eager_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", _no_compiler)
    with pytest.warns(UserWarning, match=r"no C\+\+ compiler"):
        assert resolve_precision("auto", "auto", passes=LONG, cost=COST, device=CPU) == Precision()
    with pytest.raises(ConfigError, match="install g"):
        Precision(compile=True).compiled(torch.sin)
    assert "no C++" in examine()["compiler"][0]["state"]


@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("echo 'fatal error: Python.h: No such file' >&2; exit 1", "does not find Python.h"),
        ("exit 1", "does not work"),
    ],
)
def test_a_compiler_that_cannot_compile_counts_as_none(
    body: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "stub-c++"
    compiler.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exit 0\n{body}\n')
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", lambda: str(compiler))
    assert reason in str(why_not_compile())


@pytest.mark.usefixtures("anew")
def test_a_folder_of_compiled_code_that_cannot_be_written_counts_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(occupied / "cache"))
    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", lambda: "true")
    assert "TORCHINDUCTOR_CACHE_DIR" in str(why_not_compile())
