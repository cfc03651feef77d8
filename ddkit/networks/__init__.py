"""Where the networks come from on which real and synthetic data are compared."""

from ddkit.networks.dynamic import DynamicNetworks
from ddkit.networks.experts import ExpertTrajectories, Segment
from ddkit.networks.network import Network
from ddkit.networks.pool import TrainedPool
from ddkit.networks.real_trained import RealTrainedNetworks
from ddkit.networks.sources import FreshNetworks, NetworkSource, SyntheticTrainedNetworks, registry

__all__ = [
    "DynamicNetworks",
    "ExpertTrajectories",
    "FreshNetworks",
    "Network",
    "NetworkSource",
    "RealTrainedNetworks",
    "Segment",
    "SyntheticTrainedNetworks",
    "TrainedPool",
    "registry",
]
