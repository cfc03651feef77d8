"""Training trajectories on real data (experts), which trajectory matching imitates: trained once, kept in a folder."""

from ddkit.training.experts.buffer import ExpertBuffer
from ddkit.training.experts.build import buffer_bytes, build_buffer
from ddkit.training.experts.settings import ExpertSettings

__all__ = ["ExpertBuffer", "ExpertSettings", "buffer_bytes", "build_buffer"]
