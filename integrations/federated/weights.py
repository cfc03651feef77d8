"""How do a network's weights travel: as the arrays of its state, checked against the network that receives them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ddkit.integrations.federated.flower import Array, ArrayRecord
from ddkit.integrations.federated.npy import PayloadError, read_array


def weights_to_arrays(module: nn.Module) -> ArrayRecord:
    """Return the state of ``module`` (parameters and buffers, in their order) as arrays.

    Number formats that NumPy lacks (bfloat16) travel as float32.
    """
    return ArrayRecord({name: Array(_numpy(tensor)) for name, tensor in module.state_dict().items()})


def _numpy(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy()


def arrays_to_weights(arrays: ArrayRecord, module: nn.Module) -> dict[str, Tensor]:
    """Return ``arrays`` as a state for ``module``, without changing it.

    Averaging turns whole numbers into floats, so those are accepted and rounded.

    Raises:
        PayloadError: other names, shapes or number formats than the network's, or weights that are not finite.
    """
    state = module.state_dict()
    if list(arrays) != list(state):
        raise PayloadError(
            f"weights {sorted(map(str, arrays))[:3]}... are not those of this {type(module).__name__}: server and "
            f"clients need the same model"
        )
    weights = {}
    for name, tensor in state.items():
        array = arrays[name]
        if array.stype != "numpy.ndarray":
            raise PayloadError(f"{name} is serialised as {str(array.stype)[:40]!r}: only numpy.ndarray is read")
        allowed = tuple(dict.fromkeys((str(_numpy(tensor).dtype), "float32", "float64")))
        values = torch.from_numpy(read_array(array.data, allowed, tuple(tensor.shape), name))
        cast = (values if tensor.is_floating_point() else values.round()).to(tensor.dtype)
        # Both: a large float64 is infinite only as float32, a NaN is a number only as an integer.
        if not bool(torch.isfinite(values).all() & torch.isfinite(cast).all()):
            raise PayloadError(f"{name} holds NaN or infinity: the training that made it diverged")
        weights[name] = cast
    return weights


def load_arrays(arrays: ArrayRecord, module: nn.Module) -> nn.Module:
    """Set the state of ``module`` from checked ``arrays``; return it.

    Raises:
        PayloadError: as :func:`arrays_to_weights`.
    """
    module.load_state_dict(arrays_to_weights(arrays, module))
    return module


def flat(module: nn.Module) -> Tensor:
    """Return the parameters of ``module`` as one vector (P,), in their order."""
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
