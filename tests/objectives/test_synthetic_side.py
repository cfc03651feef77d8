"""What an outer step looks at does not depend on how it is computed: chunks of classes, chunks of real images."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ddkit import Distiller
from ddkit.engine import Session
from ddkit.networks import real_signal as signal
from ddkit.testing import toy_data


def session(**overrides: Any) -> Session:
    settings: dict[str, Any] = {
        "steps": 1,
        "model": "convnet:width=4,depth=2",
        "augmentation": "color_crop",
        "compile": False,
        "precision": "float32",
        "device": "cpu",
    }
    config = Distiller("dm", 2, **{**settings, **overrides}).configure(toy_data())
    started = Session(config, toy_data())
    started.start()
    return started


@pytest.mark.parametrize("objective", ["distribution", "alignment", "gradient"])
@pytest.mark.parametrize(
    "synthesis",
    [
        {"name": "shared-decoders", "codes": 2, "decoders": 4, "code_channels": 1, "hidden": 2, "batch_decoders": 1},
        {"name": "multi-formation", "factor": 2, "batch_images": 3},
    ],
    ids=["decoders", "patches"],
)
def test_drawn_images_are_the_same_for_every_class_chunk(objective: str, synthesis: dict[str, Any]) -> None:
    losses, gradients = [], []
    for chunk in (1, 2, 3):
        options = {"name": objective, "real_batch": 5, "class_chunk": chunk}
        one = session(objective=options, synthesis=synthesis)
        losses.append(one.objective.backward(one.synthesizer)["loss"])
        gradients.append(torch.cat([p.grad.flatten() for p in one.synthesizer.learnable() if p.grad is not None]))
    assert losses[1:] == pytest.approx(losses[:1] * 2, rel=1e-4)
    for gradient in gradients[1:]:
        assert torch.allclose(gradient, gradients[0], rtol=1e-3, atol=1e-4 * float(gradients[0].abs().max()))


def test_accuracy_with_batch_norm_depends_on_no_chunk_and_changes_no_statistics(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = session(model="convnet:width=4,depth=2,norm=batch")
    network = one.networks.current()
    network.module.train()
    one.signal.feature_means(network, torch.arange(3), one.objective.context.augmentation.draw(3, torch.Generator()))
    before = {name: buffer.clone() for name, buffer in network.module.named_buffers()}
    values = []
    for chunk in (4, 7, 1000):
        monkeypatch.setattr(signal, "REAL_CHUNK", chunk)
        one.streams.load_state_dict({})
        values.append(one.signal.accuracy(network, 9, "query"))
    assert len(set(values)) == 1
    assert network.module.training
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.module.named_buffers())
