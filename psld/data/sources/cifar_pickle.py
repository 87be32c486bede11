"""Reads the pickled batches of CIFAR-10's Python version without running anything in them.

A pickle may name any function and have it called. This reader knows the three names that a pickled
numpy array needs, and puts inert stand-ins in their place: the array is rebuilt here, from the
shape and the bytes that the stand-ins were given. Any other name is refused.
"""

import io
import pickle
from typing import Any

import numpy as np


class _StandIn:
    """Keeps what the pickle hands it: the arguments of a call, and the state set afterwards."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Array(_StandIn):
    """Stands in for an array; its state is (version, shape, dtype, Fortran order, bytes)."""


class _ArrayType(_StandIn):
    """Stands in for the class numpy.ndarray, which is only named."""


class _DType(_StandIn):
    """Stands in for a dtype; its first argument is the name."""


_KNOWN = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _ArrayType,
    ("numpy", "dtype"): _DType,
}


class _InertUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type[_StandIn]:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _KNOWN[module, name]


def read_pickled_batch(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Pixels, uint8 (n, 3·32·32), and classes, int64 (n,). Raises ValueError for anything else."""
    try:
        batch = _InertUnpickler(io.BytesIO(data), encoding="bytes").load()
        pixels = _rebuild(batch[b"data"])
        labels = np.array(batch[b"labels"], dtype=np.int64)
    # A damaged pickle raises nearly anything.
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    if pixels.ndim != 2 or pixels.shape[1] != 3 * 32 * 32 or labels.shape != (len(pixels),):
        raise ValueError(f"pixels {pixels.shape} and classes {labels.shape}")
    if len(labels) == 0 or labels.min() < 0:
        raise ValueError("no images, or a negative class")
    return pixels, labels


def _rebuild(array: _Array) -> np.ndarray:
    _, shape, dtype, fortran_order, data = array.state
    if dtype.arguments[0] != b"u1":
        raise ValueError(f"an array of {dtype.arguments[0]!r}, not of uint8")
    return np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran_order else "C")
