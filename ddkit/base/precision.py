"""In which number format and how compiled the heavy passes run."""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ddkit.base.device import why_not_compile
from ddkit.errors import ConfigError

PrecisionName = Literal["auto", "float32", "bfloat16"]

#: A run is compiled under ``compile="auto"`` when its eager passes would take longer than this many seconds.
COMPILE_PAYS_SECONDS = 120.0
#: Seconds of a first compilation, and how many times faster compiled passes are, by format.
_COMPILATION, _COMPILED = 20.0, {torch.float32: 1.7, torch.bfloat16: 3.7}
#: Seconds per multiply-add and per number written by a layer that this rule assumes for eager float32. The CPU's fit
#: measurements on two cores (289 ms for 256 images of 3x32x32 through a ConvNet-D3 of width 128; narrow networks are
#: bound by memory); the accelerator's are estimates.
_EAGER_SECONDS = {"cpu": (6.7e-12, 1.2e-9), "cuda": (2e-13, 1e-11)}


@dataclass(frozen=True)
class Precision:
    """How a pass is run.

    Args:
        dtype: autocast format of convolutions and matrix products; weights and sums stay float32.
        compile: whether the pass goes through ``torch.compile`` with static shapes.
    """

    dtype: torch.dtype = torch.float32
    compile: bool = False

    @property
    def name(self) -> Literal["float32", "bfloat16"]:
        """The format as it is written in a configuration."""
        return "bfloat16" if self.dtype == torch.bfloat16 else "float32"

    def seconds(self, eager: float) -> float:
        """Estimate how long passes take that are ``eager`` seconds of eager float32."""
        return _COMPILATION + eager / _COMPILED[self.dtype] if self.compile else eager

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """Return the autocast context of this format (a no-op for float32)."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``function``, compiled when this precision says so.

        ``torch.compile`` counts recompilations per code object and gives up after a few, so every function that is
        compiled here gets one of its own: a run is compiled alike whatever ran before it in the process.

        Raises:
            ConfigError: this machine cannot compile.
        """
        if self.compile and (reason := why_not_compile()):
            raise ConfigError(f"compile=true, but {reason}: install g++ and Python's headers, or leave it out")
        return torch.compile(_with_code_of_its_own(function), dynamic=False) if self.compile else function


def _with_code_of_its_own(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return types.FunctionType(call.__code__.replace(), call.__globals__, "call", call.__defaults__, call.__closure__)


def bfloat16_is_fast(device: torch.device) -> bool:
    """Whether ``device`` multiplies bfloat16 in hardware (CUDA from Ampere on, CPUs with AMX or AVX512-BF16)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def resolve_precision(
    precision: PrecisionName,
    compile: bool | Literal["auto"],
    *,
    passes: float,
    cost: PassCost,
    device: torch.device,
) -> Precision:
    """Decide what ``auto`` means for a run.

    The rule looks only at the configuration, the shapes and the machine, never at a clock, so that a resumed run
    decides as the first one did: compile, where a compiler is there, when the passes in eager float32 would take longer
    than ``COMPILE_PAYS_SECONDS`` (a first compilation costs about 20 s); bfloat16 when compiled and fast in hardware.
    Measured on two CPU cores, ConvNet-D3 of width 128, forward of 256 images of 3x32x32: 289 ms eager, 359 ms eager
    in bfloat16, 169 ms compiled, 77 ms compiled in bfloat16.

    Args:
        precision: ``auto``, ``float32`` or ``bfloat16``.
        compile: ``auto``, True or False.
        passes: forward passes of single images in the whole run; one with a backward pass counts three.
        cost: of one forward pass of one image.
        device: where the run takes place.
    """
    use_compile = passes * cost.eager_seconds(device) > COMPILE_PAYS_SECONDS if compile == "auto" else bool(compile)
    if use_compile and compile == "auto" and (reason := why_not_compile()):
        warnings.warn(f"{reason}: this runs uncompiled, which takes up to four times as long", stacklevel=3)
        use_compile = False
    if precision == "auto":
        dtype = torch.bfloat16 if use_compile and bfloat16_is_fast(device) else torch.float32
    else:
        dtype = getattr(torch, precision)
    return Precision(dtype, use_compile)


@dataclass(frozen=True)
class PassCost:
    """Cost of one image through a network.

    Args:
        multiply_adds: of convolutions and linear layers, forward.
        activations: numbers in the outputs of all layers.
        largest_activation: numbers in the largest output of a single layer.
    """

    multiply_adds: int
    activations: int
    largest_activation: int

    def eager_seconds(self, device: torch.device) -> float:
        """Estimate one forward pass of one image, eager and in float32, in seconds."""
        per_multiply_add, per_number = _EAGER_SECONDS.get(device.type, _EAGER_SECONDS["cuda"])
        return self.multiply_adds * per_multiply_add + self.activations * per_number


def pass_cost(module: nn.Module, shape: tuple[int, int, int]) -> PassCost:
    """Count the work of one image of ``shape`` through ``module`` by a pass with hooks."""
    multiply_adds, activations, largest = 0, 0, 0

    def count(layer: nn.Module, _: Any, output: Any) -> None:
        nonlocal multiply_adds, activations, largest
        if isinstance(output, Tensor):
            activations += output[0].numel()
            largest = max(largest, output[0].numel())
            if isinstance(layer, nn.Conv2d | nn.Linear):
                multiply_adds += output[0].numel() * layer.weight[0].numel()

    leaves = [layer for layer in module.modules() if not any(True for _ in layer.children())]
    handles = [layer.register_forward_hook(count) for layer in leaves]
    was_training = module.training
    parameter = next(module.parameters())
    try:
        module.eval()
        with torch.no_grad():
            module(torch.zeros(1, *shape, device=parameter.device, dtype=parameter.dtype))
    finally:
        module.train(was_training)
        for handle in handles:
            handle.remove()
    return PassCost(multiply_adds, activations, largest)
