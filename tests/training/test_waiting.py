"""Steps of trainings and samplers never wait for their device. A meta device stands in for a GPU:
a value that is read from it is an error."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from psld.diffusion.loss import EpsilonLoss
from psld.diffusion.samplers import SamplerSettings
from psld.diffusion.score import NetworkScore
from psld.training import batches as batches_module
from psld.training.batches import Labels
from psld.training.loop import Meter, optimize
from psld.training.ranks import Ranks
from psld.training.state import TrainingState
from psld.utils.randomness import ShardNoise
from tests.diffusion.processes import phase_space, vp_sde
from tests.gpu.test_steps import SAMPLERS
from tests.training.small import batches_of, recipe, tiny_network

META = torch.device("meta")
COPY = torch.ops.aten._to_copy.default


class Copies(TorchDispatchMode):
    """Raises at a copy between the CPU and the device for which the CPU waits."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is COPY and not kwargs.get("non_blocking"):
            target = torch.device(kwargs.get("device") or args[0].device)
            assert target.type == args[0].device.type, "this copy waits"
        return func(*args, **kwargs)


def test_a_waiting_copy_would_be_noticed():
    with pytest.raises(AssertionError, match="this copy waits"), Copies():
        torch.ones(3).to(META)
    with pytest.raises((RuntimeError, NotImplementedError)), Copies():
        float(torch.ones((), device=META))


@pytest.mark.parametrize(
    ("process", "resident"),
    [
        (phase_space(0.02), True),
        (phase_space(0.02), False),
        (phase_space(0.0, matching="dsm"), True),
        (vp_sde(), True),
    ],
)
def test_training_steps(monkeypatch, process, resident):
    if not resident:
        monkeypatch.setattr(batches_module, "RESIDENT_BYTES", 0)
    settings, ranks = recipe(micro_batch=6), Ranks(0, 1, META)
    state = TrainingState(tiny_network(process), settings)
    for network in (state.network, state.average.network):
        network.to(META)
    state.average._averaged = list(state.average.network.parameters())
    state.average._buffers = list(state.average.network.buffers())
    # The fused optimizer is for real devices.
    state.optimizer = torch.optim.Adam(state.network.parameters())
    batches, meter = batches_of(process, settings, ranks, flip=True), Meter(ranks)
    with Copies():
        for step in range(2):
            batch = batches.draw(step)
            loss, norm = optimize(state, state.network, EpsilonLoss(process), batch, settings)
            meter.add(step, loss, norm)


def test_labels(monkeypatch):
    batches = batches_of(phase_space(0.02), recipe(), Ranks(0, 1, META))
    batches.labels = Labels(torch.arange(50).numpy(), 50, dropout=0.5)
    with Copies():
        assert batches.draw(0).labels.device == META


@pytest.mark.parametrize("settings", SAMPLERS.values(), ids=SAMPLERS)
@torch.no_grad()
def test_sampler_steps(settings: SamplerSettings):
    process = phase_space(0.02)
    integrator = settings.build(process, META)
    score = NetworkScore(tiny_network(process).to(META).eval(), batch_size=2)
    with ShardNoise(0, 0, (4, 2, 8, 8), META) as noise:
        z: Tensor = process.prior(noise())
        with Copies():
            for index in range(len(integrator.ends)):
                z = integrator.step(index, z, score, noise)
