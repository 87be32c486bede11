"""Evaluation of functions in batches. The batch size is halved on out-of-memory errors."""

import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor
from tqdm.auto import tqdm

from psld.utils.errors import is_out_of_memory

Result = TypeVar("Result")


class Batching:
    """Evaluates functions of the images of a shard in batches.

    On an out-of-memory error, the batch size is halved and a message is printed to standard error.
    """

    def __init__(self, size: int = sys.maxsize) -> None:
        self.size = size
        """The batch size: images per evaluation. This size is halved on out-of-memory errors."""

    def __call__(self, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        """Return function(*tensors), evaluated in batches along the first dimension."""
        return torch.cat(list(self.parts(function, *tensors)))

    def parts(self, function: Callable[..., Result], *tensors: Tensor) -> Iterator[Result]:
        """Yield function(*part) for all batches along the first dimension."""
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
            # Retry outside the exception handler, because the exception keeps the tensors of the
            # failed evaluation alive.
            self.size = images // 2
            torch.cuda.empty_cache()
            tqdm.write(
                f"out of memory with {images} images at once; continuing with {self.size}",
                file=sys.stderr,
            )
