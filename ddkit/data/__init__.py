"""Where does real data come from: sources, checks, preprocessing and class-balanced batches."""

from ddkit.data.loading import available, load, load_pair, locate
from ddkit.data.preprocessing import Preprocessing
from ddkit.data.real import RealData

__all__ = ["Preprocessing", "RealData", "available", "load", "load_pair", "locate"]
