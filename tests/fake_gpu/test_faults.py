"""Planted faults, which the checks of this folder must detect."""

import pytest
import torch
from torch import Tensor

from psld.diffusion import loop
from psld.diffusion.integrators import EulerMaruyama
from psld.diffusion.loss import EpsilonLoss, NoisyStates
from psld.networks import ncsnpp
from psld.training import batches
from psld.training.loop import Meter
from psld.utils import randomness
from tests.fake_gpu.fake import FakeGPU
from tests.fake_gpu.steps import check_sampler, check_training
from tests.fake_gpu.trainings import TRAININGS
from tests.gpu.test_steps import SAMPLERS

KERNELS = 431
"""The number of kernel launches in the third step of TRAININGS["epsilon"]."""


def after(cls: type, name: str, then):
    """Return the arguments of a patch: the class, the name of a method, and a method that passes
    the result of the original method to `then`."""
    original = getattr(cls, name)

    def changed(*args, **kwargs):
        result = original(*args, **kwargs)
        return then(result)

    return cls, name, changed


def waits(result):
    float(torch.as_tensor(result[0] if isinstance(result, tuple) else result).sum())
    return result


def blocking(tensor: Tensor, *args, non_blocking: bool = False, **kwargs) -> Tensor:
    return TO(tensor, *args, **kwargs)


TO, NORMAL = Tensor.to, randomness.standard_normal

TRAINING_FAULTS = {
    "a tensor on the CPU": (
        *after(NoisyStates, "__call__", lambda seen: (seen[0], torch.ones(64))),
        "on the CPU",
    ),
    "a value read": (*after(EpsilonLoss, "__call__", waits), "waits"),
    "a mask as index": (*after(EpsilonLoss, "__call__", lambda x: x[x > 0].mean()), "waits"),
    "a synchronization": (*after(Meter, "add", lambda _: torch.cuda.synchronize()), "waits"),
    "float64": (batches, "standard_normal", lambda *args: NORMAL(*args).double(), "copied"),
    "pageable memory": (batches, "pinned", lambda tensor, _: tensor.clone(), "blocking copies"),
    "a copy that blocks": (Tensor, "to", blocking, "blocking copies"),
    "gradients kept": (torch.nn.Module, "zero_grad", lambda *_, **__: None, "kernels"),
    "a split kernel": (ncsnpp, "silu", lambda x: x * x.sigmoid(), "kernels"),
}
"""For each fault: the patched object, the name of its attribute, the new value, and a part of the
expected message."""

SAMPLER_FAULTS = {
    "pageable memory": (randomness, "standard_normal", lambda *a: NORMAL(*a).clone(), "blocking"),
    "a value read": (*after(EulerMaruyama, "step", waits), "waits"),
    "a forgotten no_grad": (loop, "path", loop.path.__wrapped__, "memory kept"),
    "states kept": (*after(EulerMaruyama, "step", lambda z: KEPT.append(z) or z), "memory kept"),
}
KEPT: list[Tensor] = []


def test_without_a_fault_there_is_nothing_to_find():
    with FakeGPU() as gpu:
        check_training(gpu, TRAININGS["epsilon"], kernels=KERNELS)


@pytest.mark.parametrize("fault", TRAINING_FAULTS.values(), ids=TRAINING_FAULTS)
def test_a_fault_of_a_training_is_found(fault, monkeypatch):
    *change, found = fault
    monkeypatch.setattr(*change)
    with FakeGPU() as gpu, pytest.raises((AssertionError, RuntimeError), match=found):
        check_training(gpu, TRAININGS["epsilon"], kernels=KERNELS)


@pytest.mark.parametrize("fault", SAMPLER_FAULTS.values(), ids=SAMPLER_FAULTS)
def test_a_fault_of_a_sampler_is_found(fault, monkeypatch):
    *change, found = fault
    monkeypatch.setattr(*change)
    with FakeGPU() as gpu, pytest.raises((AssertionError, RuntimeError), match=found):
        check_sampler(gpu, SAMPLERS["em"].model_copy(update={"steps": 8}), "none")
    KEPT.clear()
