"""Images of other policies in the bytes of a codec, and what noise takes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from ddkit.base.sizes import parse_bytes
from ddkit.data.distilled.coding import code, codec_of
from ddkit.data.preprocessing import Preprocessing
from ddkit.errors import ConfigError
from ddkit.integrations.continual.exposure import exposed
from ddkit.integrations.continual.host import AvalancheDataset, ExemplarsBuffer
from ddkit.integrations.continual.incoming import Form, observe, read
from ddkit.integrations.continual.parts import Part
from ddkit.integrations.continual.updating import waiting_parts


def noise_coded(stored: Mapping[str, Tensor], codec: str, images: Collection[str], classes: int) -> dict[str, Tensor]:
    """Return what a codec keeps of noise in the shapes of stored tensors, which does not compress.

    Args:
        stored: by name.
        codec: as users give it.
        images: names of the tensors that look like images.
        classes: K.
    """
    generator = torch.Generator().manual_seed(0)
    noise = {name: torch.rand(tensor.shape, generator=generator) for name, tensor in stored.items()}
    return code(noise, codec, images, classes, probabilities=False).parts()


class CodedBuffer(ExemplarsBuffer):  # type: ignore[misc]
    """Shows the memory of another policy as it is in the bytes of a codec.

    Avalanche's buffers index into the stream's datasets. Here their images are coded class by class after every
    experience, the policy is resized until that fits, and what decodes is replayed. A size that did not fit does not
    come back.

    >>> memory = CodedBuffer(ReservoirSamplingBuffer(10**6), 6400, "uniform:bits=3")

    Args:
        policy: the other policy, of a size that is larger than what fits.
        max_bytes: bytes in all, labels included.
        codec: as for :class:`~ddkit.integrations.continual.ClassMemory`.
        pixels: how the stream's images were preprocessed; None to take it from the range of the first images.

    Raises:
        UnknownNameError: an unknown codec.
        ConfigError: an option of the codec out of range, or no number of bytes.
    """

    def __init__(self, policy: Any, max_bytes: int | str, codec: str, pixels: Preprocessing | None = None) -> None:
        codec_of(codec)
        self.policy, self.max_bytes, self.codec = policy, parse_bytes(max_bytes), codec
        self._pixels = pixels
        self._form: Form | None = None
        self._parts: list[Part] = []
        self._exposed = exposed([], None, None, None)

    @property
    def max_size(self) -> int:
        """Of the policy."""
        size: int = self.policy.max_size
        return size

    @property
    def buffer(self) -> AvalancheDataset:
        """What the codec keeps of the policy's images, decoded."""
        return self._exposed

    @property
    def bytes(self) -> int:
        """Bytes of the coded images with their labels."""
        return sum(part.payload for part in self._parts)

    def update(self, strategy: Any, **kwargs: Any) -> None:
        """Let the policy take in the finished experience."""
        self.post_adapt(strategy, strategy.experience)

    def post_adapt(self, agent: Any, exp: Any) -> None:
        """Let the policy take in an experience.

        Raises:
            ConfigError: not one image fits, or the codec cannot hold such images.
        """
        self._form = self._form or observe(exp.dataset.eval(), self._pixels)
        self.policy.post_adapt(agent, exp)
        self._code(agent)

    def resize(self, strategy: Any, new_size: int) -> None:
        """Resize the policy to a number of images."""
        self.policy.resize(strategy, new_size)
        self._code(strategy)

    def _code(self, agent: Any) -> None:
        """Code the policy's images, fewer until they fit."""
        self._parts = []
        while self._form is not None and (count := len(self.policy.buffer)):
            images = read(self.policy.buffer.eval(), self._form, None)
            self._parts = [part.coded(self.codec) for part in waiting_parts(images, "stream")]
            if self.bytes <= self.max_bytes:
                break
            smaller = min(count - 1, count * self.max_bytes // self.bytes)
            if not smaller:
                each = self.bytes // count
                raise ConfigError(
                    f"max_bytes={self.max_bytes} does not hold one image, of {each} bytes: give at least {each} bytes"
                )
            self.policy.resize(agent, smaller)
        self._exposed = exposed(self._parts, self._form, None, None)
