"""Training trajectories on real data (experts), which trajectory matching imitates: trained once, kept in a folder."""

from ddkit.experts.buffer import ExpertBuffer
from ddkit.experts.build import buffer_bytes, build_buffer
from ddkit.experts.settings import ExpertSettings

__all__ = ["ExpertBuffer", "ExpertSettings", "buffer_bytes", "build_buffer"]
