"""Count the memory that a computation would need on a GPU, without a GPU."""

import warnings
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

BLOCK = 512
"""On a GPU, torch allocates multiples of this number of bytes."""


class PeakMemory(TorchDispatchMode):
    """Count the bytes of the tensors that are alive at the same time.

        with PeakMemory() as memory:
            with memory.without_values():
                network, x = nn.Conv2d(3, 64, 3), torch.empty(8, 3, 32, 32)
            network(x).sum().backward()
        memory.peak

    The mode counts the tensors that are created in `without_values`, and all tensors computed from
    them. These tensors have shapes, types and the device CPU, but take no memory. All code that
    needs no values can use them. Tensors on torch's `meta` device are also counted, for code that
    has a device argument. Other tensors are unchanged.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        """Bytes of the tensors that are currently alive."""
        self.peak = 0
        """The largest number of bytes that were alive at the same time."""
        self._makes = False
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._within = ExitStack()
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __enter__(self) -> "PeakMemory":
        self._silence()
        self._within.enter_context(_DropoutOfGPU())
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._within.close()

    def _silence(self) -> None:
        """Copy networks without a warning that their parameters have no address."""
        self._within.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")

    @contextmanager
    def without_values(self) -> Iterator[None]:
        """Create all tensors without values in this context."""
        self._makes = True
        try:
            yield
        finally:
            self._makes = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        used = FakeTensor in types and func is not torch.ops.prim.device.default
        if used or self._makes:
            args, kwargs = tree_map_only(Tensor, self._as_fake, (args, kwargs))
        with self._fake if used or self._makes else nullcontext():
            result = func(*args, **kwargs)
        for each in tree_leaves(result):
            if isinstance(each, FakeTensor) or (isinstance(each, Tensor) and each.is_meta):
                self._count(each.untyped_storage())
        return result

    def _as_fake(self, tensor: Tensor) -> Tensor:
        return tensor if isinstance(tensor, FakeTensor) else self._fake.from_tensor(tensor)

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK

        def free(_: Any) -> None:
            del self._known[key]
            self.live -= size

        self._known[key] = weakref.ref(storage, free)
        self.live += size
        self.peak = max(self.peak, self.live)


class _DropoutOfGPU(TorchFunctionMode):
    """Dropout as on a GPU, which stores one byte per value for the backward pass; a CPU stores four
    bytes."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.dropout and kwargs["training"] and kwargs["p"] > 0:
            return torch.native_dropout(*args, kwargs["p"], True)[0]
        return func(*args, **kwargs)
