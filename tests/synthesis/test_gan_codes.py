"""GAN codes: where they start, how they are decoded, which generators and options are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from ddkit.errors import ConfigError, DataError
from ddkit.models.spec import seeded
from ddkit.synthesis import GANCodes
from ddkit.synthesis.gan import Generator, codes, save_generator
from ddkit.testing import toy_data

from .gan_runs import TINY, Linear, fit, started


def test_inverted_codes_are_paired_with_distinct_real_images_of_their_class() -> None:
    data = toy_data()
    result = started(ipc=5, data=data)
    assert torch.equal(data.labels[result.pairs], result.classes)
    assert len(set(result.pairs.tolist())) == len(result)
    assert torch.equal(started("prior").pairs, torch.full((6,), -1))


def test_inversion_brings_images_nearer_to_their_partners() -> None:
    data = toy_data()
    result = started(data=data, inversion_steps=60)
    before, after = result.inversion.tolist()
    assert after[1] < 0.9 * before[1]
    error = (result()[0].detach() - data.batch(result.pairs)).square().mean()
    assert float(error) == pytest.approx(after[1], rel=1e-4)
    card = result.card()["inversion"]
    assert card["pixel_loss"] == pytest.approx([before[1], after[1]])
    assert card["feature_loss"] == pytest.approx([before[0], after[0]])
    assert "inversion" not in started("prior").card()


def test_prior_codes_are_standard_normal() -> None:
    values = started("prior", ipc=400).codes.detach()
    assert abs(values.mean().item()) < 4 / values.numel() ** 0.5
    assert abs(values.std().item() - 1) < 4 / (2 * values.numel()) ** 0.5


def test_start_follows_its_generator_and_no_global_one() -> None:
    before = torch.get_rng_state()
    first, again, other = started(seed=1), started(seed=1), started(seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    states = [s.state_dict() for s in (first, again)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(first.codes, other.codes)
    assert not torch.equal(first.generator.linear.weight, other.generator.linear.weight)


def test_images_leave_the_generators_range_for_the_preprocessed_space() -> None:
    data = toy_data(shape=(3, 8, 12))
    result = started("prior", data=data)
    drawn = result.generator(result.codes, result.classes)
    expected = data.preprocessing.apply(drawn * 0.5 + 0.5)
    torch.testing.assert_close(result()[0], expected, rtol=1e-5, atol=1e-5)


def test_generator_stays_frozen_in_eval_mode() -> None:
    result = started("prior")
    before = {name: tensor.clone() for name, tensor in result.generator.state_dict().items()}
    result.train()
    assert not any(module.training for module in result.generator.modules())
    result()[0].square().sum().backward()
    assert result.codes.grad is not None and float(result.codes.grad.abs().sum()) > 0
    assert all(p.grad is None and not p.requires_grad for p in result.generator.parameters())
    after = result.generator.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert result.parameter_groups().keys() == {"codes"}


def test_matching_leaves_the_generator_as_it_was_to_the_bit() -> None:
    data, result = toy_data(), GANCodes(3, 2, (1, 8, 8), **TINY)
    states: list[dict[str, Tensor]] = []
    start = result.initialise

    def remember(*arguments: Any) -> None:
        start(*arguments)
        states.append({name: t.clone() for name, t in result.state_dict().items()})

    result.initialise = remember  # type: ignore[method-assign]
    fit(data, steps=5, synthesizer=result)
    (before,) = states
    changed = {name for name, tensor in result.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"codes"}


def test_decoding_in_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    result = started("prior", ipc=5).double()
    whole, weight = (
        result()[0],
        torch.randn(15, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
    )
    (expected,) = torch.autograd.grad((whole.sin() * weight).sum(), result.codes)
    monkeypatch.setattr(codes, "DECODE_CHUNK", 4)
    chunked = result()[0]
    (gradient,) = torch.autograd.grad((chunked.sin() * weight).sum(), result.codes)
    torch.testing.assert_close(chunked, whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(result()[0], whole, rtol=1e-12, atol=1e-12)


def test_differentiated_chunks_keep_no_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    result = started("prior", ipc=8)

    def kept() -> int:
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            result()
        return sum(sizes)

    whole = kept()
    monkeypatch.setattr(codes, "DECODE_CHUNK", 4)
    assert kept() < 0.1 * whole


def test_batches_draw_distinct_codes_of_every_class_asked_for() -> None:
    result = started("prior", ipc=6, batch_codes=4)
    stream = torch.Generator().manual_seed(0)
    index = result.batch_index(torch.tensor([2, 0]), stream)
    assert result.classes[index].tolist() == [2] * 4 + [0] * 4
    assert len(set(index.tolist())) == 8
    assert any(not torch.equal(index, result.batch_index(torch.tensor([2, 0]), stream)) for _ in range(5))
    everything = started("prior", ipc=6)
    assert torch.equal(everything.batch_index(torch.tensor([1]), stream), torch.arange(6, 12))


def test_saved_generator_is_used_as_it_is(tmp_path: Path) -> None:
    with seeded(5):
        saved = Generator((1, 8, 8), 3, code_size=7, width=6)
    path = save_generator(saved, tmp_path / "g.safetensors")
    for given in (path, str(path)):
        result = started("prior", generator=given)
        assert result.codes.shape == (6, 7)
        weights = result.generator.state_dict()
        assert all(torch.equal(tensor, weights[name]) for name, tensor in saved.state_dict().items())
    with pytest.raises(ConfigError, match="train one on these data"):
        started("prior", data=toy_data(shape=(3, 8, 12)), generator=path)


def test_spectral_norm_may_stay_in_a_module_or_be_folded_into_its_weights() -> None:
    own = Linear().requires_grad_(True).train()
    spectral_norm(own.linear)
    own.eval().requires_grad_(False)
    kept = started(generator=own)
    before = {name: tensor.clone() for name, tensor in kept.generator.state_dict().items()}
    images = kept()[0]
    assert all(torch.equal(before[name], tensor) for name, tensor in kept.generator.state_dict().items())
    parametrize.remove_parametrizations(own.linear, "weight")
    torch.testing.assert_close(started(generator=own)()[0], images, rtol=0, atol=1e-6)


class Broken(Linear):
    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return super().forward(z, labels) / 0 * 0


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Linear().train(), "train mode"),
        (Linear().requires_grad_(True), "trainable parameters"),
        (Linear(shape=(1, 8, 9)), "both must agree"),
        (Linear(num_classes=2), "fails on codes .* labels 0 and 2"),
        (Linear(code_size=4), "set synthesis.code_size"),
        (Broken(), "not finite"),
    ],
)
def test_module_that_does_not_fit_is_refused_before_any_work(module: nn.Module, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        GANCodes(3, 2, (1, 8, 8), code_size=3, generator=module)
    assert "\n" not in str(caught.value)


def test_what_is_out_of_range_is_refused() -> None:
    wrong = {"generator_steps": 0, "generator_batch": 1, "inversion_steps": 0, "feature_steps": 0}
    for name, value in {**wrong, "batch_codes": 3, "code_size": 0, "width": 3}.items():
        with pytest.raises(ConfigError, match=f"synthesis.{name}={value}"):
            GANCodes(3, 2, (1, 8, 8), **{name: value})
    with pytest.raises(ConfigError, match="batch_codes=0"):
        GANCodes(3, 2, (1, 8, 8), batch_codes=0)


def test_more_codes_than_images_can_only_start_from_the_prior() -> None:
    data = toy_data(counts=(6, 9, 7))
    with pytest.raises(DataError, match="6 images to invert: choose ipc <= 6 or init=prior"):
        GANCodes(3, 7, (1, 8, 8)).check(data, "inverted")
    assert len(started("prior", ipc=7, data=data)) == 21
    with pytest.raises(ConfigError, match="known: inverted, prior"):
        GANCodes(3, 2, (1, 8, 8)).check(data, "real")
