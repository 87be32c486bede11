"""The evaluation of functions in batches, halved when memory runs out."""

import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor
from tqdm.auto import tqdm

from psld.utils.errors import is_out_of_memory

Result = TypeVar("Result")


class Batching:
    """The evaluation of functions on a shard in batches.

    If memory runs out, the batch is halved, with a message on standard error.
    """

    def __init__(self, size: int = sys.maxsize) -> None:
        self.size = size
        """Images per evaluation; reduced when memory runs out."""

    def __call__(self, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        """Return function(*tensors), evaluated in parts along the first dimension."""
        return torch.cat(list(self.parts(function, *tensors)))

    def parts(self, function: Callable[..., Result], *tensors: Tensor) -> Iterator[Result]:
        """Yield function(*part) of all parts along the first dimension."""
        count, start = len(tensors[0]), 0
        while start < count:
            part = [tensor[start : start + self.size] for tensor in tensors]
            try:
                result = function(*part)
            except RuntimeError as error:
                images = len(part[0])
                if images == 1 or not is_out_of_memory(error):
                    raise
            else:
                yield result
                start += self.size
                continue
            # Not in the handler, which keeps the tensors of the failed evaluation alive.
            self.size = images // 2
            torch.cuda.empty_cache()
            tqdm.write(
                f"out of memory with {images} images at once; going on with {self.size}",
                file=sys.stderr,
            )
