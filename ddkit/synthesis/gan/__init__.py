"""Codes of a frozen generator: the generator, its training, the inversion of real images, and what is learned."""

from ddkit.synthesis.gan.codes import GANCodes
from ddkit.synthesis.gan.generator import Generator, load_generator, save_generator
from ddkit.synthesis.gan.inversion import invert
from ddkit.synthesis.gan.training import train_generator

__all__ = ["GANCodes", "Generator", "invert", "load_generator", "save_generator", "train_generator"]
