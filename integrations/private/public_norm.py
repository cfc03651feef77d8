"""How large are features of a random network: measured on noise images, which are nobody's data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ddkit.base.streams import Streams
from ddkit.networks.network import Network

#: Public images per network.
_IMAGES = 128
#: Side of the coarse noise that is enlarged to images: strokes and blobs instead of grain.
_COARSE = 4


@dataclass(frozen=True)
class Centre:
    """Mean and spread of features over public images.

    Args:
        mean: (D,).
        radius: largest distance of a public image's features from it.
    """

    mean: Tensor
    radius: float

    def scaled(self, features: Tensor) -> Tensor:
        """Return features (n, D) relative to the centre, in units of the radius."""
        return (features - self.mean) / self.radius

    def restored(self, scaled: Tensor) -> Tensor:
        """Undo :meth:`scaled` for means (K, D)."""
        return scaled.to(self.mean) * self.radius + self.mean


def public_centre(network: Network, streams: Streams) -> Centre:
    """Return the centre of a network's features over enlarged black-and-white noise.

    Subtracting it costs nothing and makes what one record adds two to three times smaller: 1.9 instead of 4.0 for 8x8
    digits, 5 instead of 8.5 for MNIST (ConvNet, width 16), so that less noise is needed.

    Args:
        network: with the weights in question.
        streams: of the run; the images are the same for every network.
    """
    generator = torch.Generator().manual_seed(streams.seed)
    channels, height, width = network.shape
    coarse = torch.randn(_IMAGES, channels, _COARSE, _COARSE, generator=generator)
    images = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False).sign()
    with torch.no_grad():
        features = network.features(images)
    mean = features.mean(0)
    return Centre(mean, max(float((features - mean).norm(dim=1).max()), 1e-6))
