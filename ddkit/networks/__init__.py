"""Where the networks come from on which real and synthetic data are compared."""

from ddkit.networks.cached_signal import CachedSignal
from ddkit.networks.dynamic import DynamicNetworks
from ddkit.networks.experts import ExpertTrajectories, Segment
from ddkit.networks.fixed import FixedNetworks
from ddkit.networks.fourier import Frequencies
from ddkit.networks.infinite import InfiniteNetworks
from ddkit.networks.network import Network
from ddkit.networks.online import OnlineNetwork
from ddkit.networks.online_pool import OnlinePool
from ddkit.networks.pool import TrainedPool
from ddkit.networks.random_features import RandomFeatureNetworks
from ddkit.networks.real_signal import RealSignal
from ddkit.networks.real_trained import RealTrainedNetworks
from ddkit.networks.representative_signal import RepresentativeSignal
from ddkit.networks.signal import LayerFeatures, Risk, Signal
from ddkit.networks.signal import registry as signals
from ddkit.networks.sources import FreshNetworks, NetworkSource, SyntheticTrainedNetworks, registry

__all__ = [
    "CachedSignal",
    "DynamicNetworks",
    "ExpertTrajectories",
    "FixedNetworks",
    "Frequencies",
    "FreshNetworks",
    "InfiniteNetworks",
    "LayerFeatures",
    "Network",
    "NetworkSource",
    "OnlineNetwork",
    "OnlinePool",
    "RandomFeatureNetworks",
    "RealSignal",
    "RealTrainedNetworks",
    "RepresentativeSignal",
    "Risk",
    "Segment",
    "Signal",
    "SyntheticTrainedNetworks",
    "TrainedPool",
    "registry",
    "signals",
]
