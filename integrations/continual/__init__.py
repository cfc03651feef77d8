"""Continual learning on Avalanche: a replay memory of distilled images as a storage policy.

>>> from ddkit.integrations.continual import DistilledReplayBuffer, distilled_replay
>>> buffer = DistilledReplayBuffer(max_size=100, num_classes=10, method="dm", steps=500)
>>> strategy = Naive(..., train_mb_size=32, plugins=distilled_replay(buffer, memory_batch_size=32))

Any strategy that takes a ``ReplayPlugin`` takes this memory. Needs the extra ``ddkit[continual]``.
"""

from ddkit.integrations.continual.coded import CodedBuffer
from ddkit.integrations.continual.coreset import CoresetReplayBuffer
from ddkit.integrations.continual.distilled import DistilledReplayBuffer
from ddkit.integrations.continual.memory import ClassMemory
from ddkit.integrations.continual.metrics import StreamAccuracies
from ddkit.integrations.continual.parts import Facts
from ddkit.integrations.continual.replay import RepeatedMemory, SoftTargets, distilled_replay, replay

__all__ = [
    "ClassMemory",
    "CodedBuffer",
    "CoresetReplayBuffer",
    "DistilledReplayBuffer",
    "Facts",
    "RepeatedMemory",
    "SoftTargets",
    "StreamAccuracies",
    "distilled_replay",
    "replay",
]
