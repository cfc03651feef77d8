"""Where the networks come from on which real and synthetic data are compared."""

from ddkit.networks.network import Network
from ddkit.networks.sources import FreshNetworks, NetworkSource, SyntheticTrainedNetworks, registry

__all__ = ["FreshNetworks", "Network", "NetworkSource", "SyntheticTrainedNetworks", "registry"]
