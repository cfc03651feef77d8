"""What do strategies that hold a storage policy of their own need of a memory: logits, full batches?"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ddkit.errors import ConfigError
from ddkit.integrations.continual.host import DER, ER_ACE, ER_AML, MIRPlugin, SupervisedPlugin
from ddkit.integrations.continual.incoming import Form
from ddkit.integrations.continual.model import CurrentModel

_BATCH = 512


def require_full_batches(agent: Any, policy: Any, repeats: int = 1) -> None:
    """Look whether a strategy draws batches of each class that the policy it holds cannot fill.

    Args:
        agent: the strategy.
        policy: a memory, or what repeats one.
        repeats: multiple of which the number of images of each class is at least.

    Raises:
        ConfigError: the strategy would wait for ever for a full batch.
    """
    if isinstance(agent, ER_AML) and agent.storage_policy is policy and repeats < agent.train_mb_size:
        raise ConfigError(
            f"ER_AML waits for ever for {agent.train_mb_size} images of a class that has fewer: give it "
            f"storage_policy=RepeatedMemory(buffer, {agent.train_mb_size})"
        )


def warn_of_idle_replay(agent: Any, memory: Any) -> None:
    """Say that a strategy which holds ``memory`` replays only from more images than it has."""
    for holder in (agent, *getattr(agent, "plugins", ())):
        if isinstance(holder, DER | ER_ACE | MIRPlugin) and holder.storage_policy is memory:
            least = holder.batch_size_mem + isinstance(holder, MIRPlugin)
            if len(memory.buffer) < least:
                warnings.warn(
                    f"{type(holder).__name__} replays nothing from fewer than {least} images, the memory has "
                    f"{len(memory.buffer)}: give it storage_policy=RepeatedMemory(buffer, {least})",
                    stacklevel=2,
                )


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
        images: uint8 or on the [0, 1] scale, ``(n, C, H, W)``.
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
