"""How is a memory plugged into a strategy, with mini-batches in which it has its full weight?"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ddkit.base.ranges import Count, in_range
from ddkit.errors import ConfigError
from ddkit.integrations.continual.exposure import Group
from ddkit.integrations.continual.host import (
    AvalancheDataset,
    ExemplarsBuffer,
    ReplayPlugin,
    TransformGroups,
)
from ddkit.integrations.continual.memory import ClassMemory
from ddkit.integrations.continual.needs import SoftRows, require_full_batches

#: A memory of this many batches or more is not repeated: its last, shorter batch hardly counts.
_ENOUGH_BATCHES = 16


class RepeatedMemory(ExemplarsBuffer):  # type: ignore[misc]
    """Shows the memory of another policy so often that every memory batch is full.

    Avalanche's ``ReplayDataLoader`` puts a memory that is smaller than its batch into each mini-batch once, whatever
    the batch size: 10 images beside 32 of the stream. A memory then weighs least where it is smallest. Here its
    images are repeated by index until their number is a multiple of the batch, so that each mini-batch holds exactly
    ``batch`` of them.

    Args:
        policy: any storage policy; it goes on holding the images.
        batch: images of a memory batch.
    """

    @in_range("")
    def __init__(self, policy: Any, batch: Count) -> None:
        self.policy, self.batch = policy, batch

    @property
    def max_size(self) -> int:
        """Of the policy."""
        size: int = self.policy.max_size
        return size

    @property
    def buffer(self) -> AvalancheDataset:
        """The images of the policy, each repeated equally often."""
        return self._repeated(self.policy.buffer)

    @property
    def buffer_groups(self) -> dict[int, Group]:
        """The images of each class of the policy, each class repeated likewise.

        ``ER_AML`` draws full batches of every class and would wait for ever for one of a smaller class.
        """
        return {number: Group(self._repeated(group.buffer)) for number, group in self.policy.buffer_groups.items()}

    def _repeated(self, content: AvalancheDataset) -> AvalancheDataset:
        count = len(content)
        if not count or count >= _ENOUGH_BATCHES * self.batch:
            return content
        times = self.batch // math.gcd(count, self.batch)
        return content.subset(list(range(count)) * times)

    def update(self, strategy: Any, **kwargs: Any) -> None:
        """Let the policy take in the finished experience."""
        self.post_adapt(strategy, strategy.experience)

    def update_from_dataset(self, new_data: Any, strategy: Any = None) -> None:
        """Let the policy take in a dataset."""
        self.policy.update_from_dataset(new_data, strategy)

    def post_adapt(self, agent: Any, exp: Any) -> None:
        """Let the policy take in an experience."""
        require_full_batches(agent, self, self.batch)
        self.policy.post_adapt(agent, exp)

    def resize(self, strategy: Any, new_size: int) -> None:
        """Resize the policy."""
        self.policy.resize(strategy, new_size)


class OneHot:
    """Turns class numbers into rows of probabilities; picklable.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    def __call__(self, target: Any) -> Tensor:
        """Return ``(K,)`` float32 of an integer or a 0-dimensional tensor."""
        return F.one_hot(torch.as_tensor(target, dtype=torch.int64), self.num_classes).float()


class SoftTargets(SoftRows):
    """Lets the stream's labels become rows of probabilities when training, as those of a memory with soft labels are.

    ``nn.CrossEntropyLoss`` takes rows, and accuracy metrics their largest entry; evaluation keeps class numbers. Rows
    follow the model's output where that has another length, as with a head that grows.

    Args:
        num_classes: K, the length of the rows.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """Wrap the experience's dataset."""
        groups = TransformGroups({"train": (None, OneHot(self.num_classes)), "eval": None})
        strategy.adapted_dataset = AvalancheDataset([strategy.adapted_dataset], transform_groups=groups)

    def after_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Give the rows of the mini-batch the length of the model's output.

        Raises:
            ConfigError: a row names a class for which the model has no output.
        """
        if strategy.mb_y.ndim == 2:
            strategy.mbatch[1] = rows_of_length(strategy.mb_y, strategy.mb_output.shape[1])


def rows_of_length(rows: Tensor, length: int) -> Tensor:
    """Return rows ``(N, K)`` of probabilities as ``(N, length)``: zeros are added, or zeros cut off.

    Raises:
        ConfigError: what would be cut off is not zero.
    """
    if bool((rows[:, length:] != 0).any()):
        label = int((rows != 0).any(dim=0).nonzero().max())
        raise ConfigError(
            f"a soft label names class {label}, the model gives {length} outputs: give it one for every class, or "
            f"leave soft_labels out"
        )
    return F.pad(rows[:, :length], (0, max(0, length - rows.shape[1])))


def replay(policy: Any, memory_batch_size: int, *, repeat_to_batch: bool = True) -> list[Any]:
    """Return the plugins that replay from any storage policy: those of Avalanche, too.

    Args:
        policy: what holds the memory.
        memory_batch_size: images of the memory in each mini-batch, beside the stream's.
        repeat_to_batch: whether a memory smaller than its batch fills it by repetition.
    """
    policy = RepeatedMemory(policy, memory_batch_size) if repeat_to_batch else policy
    return [ReplayPlugin(mem_size=policy.max_size, batch_size_mem=memory_batch_size, storage_policy=policy)]


def distilled_replay(buffer: ClassMemory, memory_batch_size: int = 32, *, repeat_to_batch: bool = True) -> list[Any]:
    """Return the plugins that replay from a distilled memory, for the ``plugins=`` of a strategy.

    Args:
        buffer: a :class:`~ddkit.integrations.continual.DistilledReplayBuffer`, or the real images beside it.
        memory_batch_size: images of the memory in each mini-batch, beside the stream's.
        repeat_to_batch: whether a memory smaller than its batch fills it by repetition; see :class:`RepeatedMemory`.

    Returns:
        ``[ReplayPlugin]``, behind a :class:`SoftTargets` where the memory has soft labels.

    Raises:
        ConfigError: another object than such a memory, or a batch below 1.
    """
    if not isinstance(buffer, ClassMemory):
        raise ConfigError(
            f"distilled_replay() got a {type(buffer).__name__}: give a DistilledReplayBuffer; other storage policies "
            f"go through replay(policy, memory_batch_size)"
        )
    plugins = replay(buffer, memory_batch_size, repeat_to_batch=repeat_to_batch)
    return [SoftTargets(buffer.num_classes), *plugins] if buffer.soft_labels else plugins
