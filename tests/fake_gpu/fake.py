"""A GPU that computes nothing: CUDA tensors are fake (shape, type, device), CPU tensors are real.

    with FakeGPU() as gpu:
        ...  # any code with device "cuda:0"
    gpu.kernels, gpu.waits, gpu.copies, gpu.peak

Code that waits for a value gets an invented value: from `answers`, or 1, True, or numbers near 0.5.
"""

import sys
import uuid
import weakref
from collections import Counter
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.utils._foreach_utils as foreach
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from psld.networks import ncsnpp
from tests.fake_gpu.memory import PeakMemory

CUDA = torch.device("cuda:0")
LARGE = 4096
"""Copies to the GPU of more bytes than this must come from pinned memory."""

LAUNCH_NOTHING = """
    alias as_strided chunk detach diagonal empty empty_like empty_strided expand lift_fresh narrow
    new_empty new_empty_strided permute _reshape_alias resize_ select set_ slice split
    split_with_sizes squeeze t transpose unbind unfold _unsafe_view unsqueeze view
"""
DATA_DEPENDENT = {"nonzero", "_unique2", "unique_dim", "masked_select", "bincount"}
WITH_INDICES = {"index", "index_put_", "_index_put_impl_", "index_put"}

# With this CUDA kernel, silu_backward is one operation, as on a GPU, instead of seven operations.
_library = torch.library.Library("aten", "IMPL")
_library.impl("silu_backward", lambda grad, _: torch.empty_like(grad), "CUDA")


def place() -> str:
    """Return the innermost line of the project on the stack, as file:line."""
    frame = sys._getframe(1)
    while frame:
        _, found, file = frame.f_code.co_filename.rpartition("/psld/")
        if found and "site-packages" not in frame.f_code.co_filename:
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return "outside"


def nbytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


class FakeGPU(PeakMemory):
    """The GPU `cuda:0`. It counts launches, waits of the host, copies and memory."""

    def __init__(self, answers: dict[str, float] | None = None) -> None:
        """`answers`: the values for which the host waits, keyed by a part of the place."""
        super().__init__()
        self.answers = answers or {}
        self._pinned: dict[int, Any] = {}
        self.reset()

    def reset(self) -> None:
        """Set all counts to 0, and the peak memory to the current memory."""
        self.kernels: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        """Waits of the host for a value, by place."""
        self.copies: Counter[str] = Counter()
        """Bytes that were copied to the GPU, by place."""
        self.blocking: Counter[str] = Counter()
        """Bytes of copies that blocked the host, because the call was blocking or the memory
        pageable."""
        self.pageable: Counter[str] = Counter()
        """Bytes of copies from pageable memory."""
        self.peak = self.live

    # -- operations -----------------------------------------------------------------------------

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func.namespace == "prim":
            return func(*args, **kwargs)
        name = func._schema.name.partition("::")[2]
        if name == "to":  # Only in inference mode, `to` arrives as one operation.
            TorchDispatchMode.__enter__(self)
            try:
                return func.decompose(*args, **kwargs)
            finally:
                TorchDispatchMode.__exit__(self, None, None, None)
        device = kwargs.get("device")
        makes = device is not None and torch.device(device).type == "cuda"
        if not (makes or FakeTensor in types):
            return func(*args, **kwargs)
        if "generator" in kwargs:
            kwargs["generator"] = None
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if name in ("_local_scalar_dense", "equal"):
            return self._value(name, inputs[0])
        if name == "_to_copy" and device is not None and torch.device(device) != args[0].device:
            return self._moved(args[0], torch.device(device), kwargs)
        if name == "copy_" and args[0].device != args[1].device:
            self._transfer(args[1], args[0].device, (*args[2:], kwargs.get("non_blocking"))[0])
            return args[0]
        masks = name in WITH_INDICES and any(x.dtype == torch.bool for x in inputs[1:])
        if name in DATA_DEPENDENT or masks:
            return self._materialized(name, func, args, kwargs)
        wrong = [x for x in inputs if x.dim() and x.device.type == "cpu"]
        if wrong and name != "lift_fresh":
            raise RuntimeError(f"{place()}: {name} of CUDA tensors and {wrong[0].shape} on the CPU")
        with self._fake:
            result = func(*args, **kwargs)
        if name not in LAUNCH_NOTHING.split():
            self.kernels[name] += 1
        for each in tree_leaves(result):
            if isinstance(each, FakeTensor) and each.device.type == "cuda":
                self._count(each.untyped_storage())
        return result

    def _value(self, name: str, tensor: Tensor) -> Any:
        self.waits[f"{place()} {name}"] += 1
        if name == "equal":
            return True
        return tensor.new_tensor(self._answer(1.0), device="cpu").item()

    def _answer(self, default: float) -> float:
        where = place()
        return next((value for part, value in self.answers.items() if part in where), default)

    def _transfer(self, source: Tensor, device: torch.device, non_blocking: bool | None) -> None:
        if device.type == "cpu":
            self.waits[f"{place()} copy to the CPU"] += 1
            return
        pinned = source.untyped_storage()._cdata in self._pinned
        self.copies[place()] += nbytes(source)
        if not pinned:
            self.pageable[place()] += nbytes(source)
        if not (non_blocking and (pinned or nbytes(source) <= LARGE)):
            self.blocking[place()] += nbytes(source)

    def _moved(self, source: Tensor, device: torch.device, kwargs: dict) -> Tensor:
        """Return the tensor on the other device; on the CPU, it has invented values."""
        self._transfer(source, device, kwargs.get("non_blocking"))
        dtype = kwargs.get("dtype") or source.dtype
        if device.type == "cpu":
            span = [self._answer(x) for x in (0.25, 0.75)]
            return torch.linspace(*span, source.numel()).view(source.shape).to(dtype)
        return self._empty(source.to(device="meta", dtype=dtype))

    def _empty(self, like: Tensor) -> Tensor:
        with self._fake:
            made = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=CUDA)
        self._count(made.untyped_storage())
        return made

    def _materialized(self, name: str, func, args, kwargs):
        """Run an operation whose output shape depends on values, with invented CPU values."""
        self.waits[f"{place()} {name}"] += 1

        def made_up(x: Tensor) -> Tensor:
            """Return zeros, or a mask in which every second value is true."""
            if not isinstance(x, FakeTensor):
                return x
            odd = torch.arange(x.numel()).remainder(2).view(x.shape)
            return odd.bool() if x.dtype == torch.bool else (0 * odd).to(x.dtype)

        args, kwargs = tree_map_only(Tensor, made_up, (args, kwargs))
        return tree_map_only(Tensor, self._empty, func(*args, **kwargs))

    # -- pinned memory --------------------------------------------------------------------------

    def _pin(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        key = storage._cdata
        self._pinned[key] = weakref.ref(storage, lambda _: self._pinned.pop(key, None))
        return tensor

    # -- torch.cuda -----------------------------------------------------------------------------

    def __enter__(self) -> "FakeGPU":
        self._silence()
        # torch.tensor(…, device="cuda") goes through a CPU tensor, which this mode sees.
        before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        self._within.callback(torch._C._set_only_lift_cpu_tensors, before)
        for target, values in self._replaced():
            self._within.enter_context(mock.patch.multiple(target, create=True, **values))
        return TorchDispatchMode.__enter__(self)

    def _replaced(self):
        total = 80 << 30
        card = SimpleNamespace(uuid=uuid.UUID(int=7), name="NVIDIA H100", total_memory=total)
        card.major, card.minor, card.multi_processor_count = 9, 0, 132

        def nothing(*_: Any, **__: Any) -> None: ...

        def synchronize(*_: Any) -> None:
            self.waits[f"{place()} synchronize"] += 1

        answers = {
            **{"is_available": True, "is_initialized": True, "device_count": 1},
            **{"current_device": 0, "get_device_name": card.name, "is_bf16_supported": True},
            **{"get_device_properties": card, "get_device_capability": (9, 0)},
        }
        silent = ("_lazy_init", "set_device", "empty_cache", "reset_peak_memory_stats")
        yield (
            torch.cuda,
            {
                **{key: lambda *_, value=value, **__: value for key, value in answers.items()},
                **dict.fromkeys((*silent, "manual_seed", "manual_seed_all"), nothing),
                "synchronize": synchronize,
                "max_memory_allocated": lambda *_: self.peak,
                "memory_allocated": lambda *_: self.live,
                "mem_get_info": lambda *_: (total - self.live, total),
            },
        )
        yield torch.amp.autocast_mode, {"is_available": lambda *_: True}
        yield torch.cuda.amp.common, {"amp_definitely_not_available": lambda: False}
        generator, made_empty = torch.Generator, torch.empty
        torch.utils._device._device_constructors()  # caches a list with torch.empty

        def empty(*size: Any, pin_memory: bool = False, **how: Any) -> Tensor:
            """A replacement for torch.empty, which threads call outside of this mode."""
            made = made_empty(*size, **how)
            return self._pin(made) if pin_memory else made

        yield torch, {"empty": empty, "Generator": lambda device="cpu": generator("cpu")}
        yield (
            torch.Tensor,
            {
                "is_pinned": lambda tensor, *_: tensor.untyped_storage()._cdata in self._pinned,
                "pin_memory": lambda x, *_: x if x.is_pinned() else self._pin(x.clone()),
            },
        )
        # Like a CUDA tensor, copy once, not once per number.
        yield FakeTensor, {"tolist": lambda tensor: tensor.cpu().tolist()}
        known = [*foreach._foreach_supported_types, FakeTensor]
        yield foreach, {"_foreach_supported_types": known}
        swap = torch.utils.swap_tensors

        def swapped(one: Tensor, other: Tensor) -> None:
            """Swap tensors only if the device or the type changes: `Module.to` swaps all fake
            parameters, but parameters in use cannot be swapped."""
            if (one.device, one.dtype) != (other.device, other.dtype):
                swap(one, other)

        yield torch.utils, {"swap_tensors": swapped}
        plain = ncsnpp.scaled_dot_product_attention

        def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            """Use the fused kernel of a GPU, because this build of torch would choose plain matrix
            products."""
            if query.device.type != "cuda":
                return plain(query, key, value)
            fused = torch.ops.aten._scaled_dot_product_efficient_attention
            return fused(query, key, value, None, True)[0]

        yield ncsnpp, {"scaled_dot_product_attention": attention}
