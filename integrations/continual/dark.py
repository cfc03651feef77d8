"""What do strategies that replay a model's logits (DER) need of a memory?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ddkit.errors import ConfigError
from ddkit.integrations.continual.host import DER, SupervisedPlugin
from ddkit.integrations.continual.incoming import Form
from ddkit.integrations.continual.model import CurrentModel

_BATCH = 512


class SoftRows(SupervisedPlugin):  # type: ignore[misc]
    """Marks the plugin by which a stream's labels become rows, as soft labels of a memory are."""


def replays_logits(agent: Any, form: Form, soft_labels: bool) -> bool:
    """Say whether a strategy replays logits.

    Raises:
        ConfigError: the strategy cannot work with this stream or these labels.
    """
    if not isinstance(agent, DER):
        return False
    if not form.task_labels:
        raise ConfigError("DER reads a task label from every item, the stream has none: make it a task-aware benchmark")
    if soft_labels and not any(isinstance(plugin, SoftRows) for plugin in agent.plugins):
        raise ConfigError(
            "DER joins the stream's class numbers with the memory's rows of soft labels: give the strategy "
            "plugins=[SoftTargets(num_classes)], or leave soft_labels out"
        )
    return True


@torch.no_grad()
def logits_of(model: nn.Module, images: Tensor, task: int, form: Form) -> Tensor:
    """Return the logits of a model in evaluation mode, float32 ``(n, H)`` on the CPU.

    Args:
        model: the strategy's.
        images: uint8 ``(n, C, H, W)``.
        task: label of them all.
        form: of the stream.
    """
    current = CurrentModel(model, task=task, vectors=form.vectors)
    device = next(current.parameters()).device
    batches = [current(form.pixels.apply(part).to(device)).float().cpu() for part in images.split(_BATCH)]
    return torch.cat(batches) if batches else torch.zeros(0, 0)


def same_width(rows: Sequence[Tensor]) -> int:
    """Return the number of logits, which must be one.

    Raises:
        ConfigError: a model whose output has grown.
    """
    widths = sorted({row.shape[1] for row in rows if len(row)})
    if len(widths) > 1:
        raise ConfigError(
            f"DER compares all logits with those of the model, whose number went from {widths[0]} to {widths[-1]}: "
            f"give it a model with all outputs from the start"
        )
    return widths[0] if widths else 0
