"""TF32: whether fp32 networks multiply with ten bits of the mantissa, which is faster on GPUs.

Since torch 2.9 there are two kinds of switches, and reading an old one (`allow_tf32`) raises after
anything in the process, such as a notebook's first cell, wrote a new one (`fp32_precision`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from torch import backends

HAS_NEW_SWITCHES = hasattr(backends, "fp32_precision")


class TF32(NamedTuple):
    """Whether convolutions and matrix products use TF32."""

    convolutions: bool
    matmul: bool


def tf32_in_use() -> TF32:
    """Return what uses TF32 now."""
    if HAS_NEW_SWITCHES:
        units = (backends.cudnn.conv, backends.cuda.matmul)
        return TF32(*(unit.fp32_precision == "tf32" for unit in units))
    return TF32(backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32)


def use_tf32(convolutions: bool, matmul: bool) -> None:
    """Let convolutions and matrix products use TF32, or all bits of fp32."""
    # Both kinds: the old ones alone do not override `torch.backends.fp32_precision`, and after the
    # new ones alone, libraries that read the old ones would fail.
    backends.cudnn.allow_tf32 = convolutions
    backends.cuda.matmul.allow_tf32 = matmul
    if HAS_NEW_SWITCHES:
        names = {True: "tf32", False: "ieee"}
        for unit in (backends.cudnn.conv, backends.cudnn.rnn):
            unit.fp32_precision = names[convolutions]
        backends.cuda.matmul.fp32_precision = names[matmul]


@contextmanager
def all_bits() -> Iterator[None]:
    """Let fp32 networks multiply with all bits of fp32 in this context, not with TF32's ten."""
    before = tf32_in_use()
    use_tf32(False, False)
    try:
        yield
    finally:
        use_tf32(*before)
