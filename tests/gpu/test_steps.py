"""Steps of trainings and samplers: without waits for the GPU, in bf16, compiled, and with nccl."""

import copy
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from psld.diffusion.loop import sample
from psld.diffusion.loss import EpsilonLoss, NoisyStates
from psld.diffusion.samplers import (
    EMSettings,
    MultistepSettings,
    RK45Settings,
    SamplerSettings,
    SSCSSettings,
)
from psld.diffusion.score import NetworkScore
from psld.networks.forward import Compile, forward_pass
from psld.networks.ncsnpp import NCSNpp
from psld.networks.settings import NetworkSettings
from psld.paper.parts import ConjugateSettings, GDDIMSettings
from psld.training import batches as batches_module
from psld.training.batches import Batches
from psld.training.loop import Meter, accumulate_gradient, optimize
from psld.training.ranks import WAIT_TIMEOUT, Ranks
from psld.training.state import TrainingState
from psld.utils.randomness import ShardNoise
from tests.diffusion.processes import phase_space
from tests.gpu.conftest import without_waiting
from tests.training.small import random_images, recipe

PROCESS = phase_space(0.02)
SHAPE = (16, 6, 16, 16)
SAMPLERS = {
    "em": EMSettings(integrator="em", striding="quadratic", steps=4),
    "sscs": SSCSSettings(integrator="sscs", striding="quadratic", steps=4),
    "multistep": MultistepSettings(integrator="multistep", striding="lambda", steps=4),
    "gddim": GDDIMSettings(integrator="gddim", striding="power", steps=4),
    "conjugate": ConjugateSettings(integrator="conjugate", striding="power", steps=4),
}


@pytest.fixture
def network(device) -> NCSNpp:
    """A network with attention for 3×16×16 images, whose initial output is not close to 0."""
    torch.manual_seed(0)
    settings = NetworkSettings(
        base_channels=32,
        channel_multipliers=(1, 2),
        blocks_per_level=1,
        attention_resolutions=(8,),
        init_scale=1.0,
    )
    return NCSNpp(settings, 16, PROCESS.blocks * 3, PROCESS.predicted_blocks * 3).to(device)


@pytest.fixture
def inputs(device) -> tuple[Tensor, Tensor]:
    """States and times."""
    generator = torch.Generator().manual_seed(0)
    z, t = torch.randn(SHAPE, generator=generator), torch.rand(SHAPE[0], generator=generator)
    return z.to(device), t.to(device)


def batches_on(device: torch.device, **changes) -> Batches:
    images = random_images(channels=3).repeat(2, axis=2).repeat(2, axis=3)
    return Batches(
        images, True, NoisyStates(PROCESS), recipe(batch_size=16, **changes), Ranks(0, 1, device)
    )


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_steps_do_not_wait(device, network, monkeypatch, precision, resident):
    if not resident:
        monkeypatch.setattr(batches_module, "RESIDENT_BYTES", 0)
    batches = batches_on(device, precision=precision, micro_batch=8)
    state, meter = TrainingState(network, batches.settings), Meter(Ranks(0, 1, device))
    called, loss_of = forward_pass(network, precision), EpsilonLoss(PROCESS)

    def steps(count: int) -> None:
        for _ in range(count):
            batch = batches.draw(state.step)
            loss, norm = optimize(state, called, loss_of, batch, batches.settings)
            meter.add(state.step, loss, norm)

    steps(3)
    with without_waiting():
        steps(3)
    values = meter.read(images_per_step=16)
    assert 0 < values["loss"] < 10
    if device.type == "cuda":
        assert values["peak_memory_gib"] > 0


@pytest.mark.parametrize("settings", SAMPLERS.values(), ids=SAMPLERS)
def test_sampler_steps_do_not_wait(device, network, settings: SamplerSettings):
    score = NetworkScore(network.eval(), batch_size=8)
    integrator = settings.build(PROCESS, device)
    with torch.no_grad(), ShardNoise(0, 0, SHAPE, device) as noise:
        z = integrator.step(0, PROCESS.prior(noise()), score, noise)
        with without_waiting():
            for index in range(1, len(integrator.ends)):
                z = integrator.step(index, z, score, noise)
    assert torch.isfinite(z).all()


PYTHON_H = Path(sysconfig.get_path("include")) / "Python.h"
needs_compiler = pytest.mark.skipif(
    not (shutil.which("gcc") and PYTHON_H.exists()), reason="compiling needs gcc and Python.h"
)


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())


@needs_compiler
@torch.no_grad()
def test_bf16_and_compiled_networks_agree_with_fp32(network, inputs):
    network.eval()
    exact = copy.deepcopy(network).cpu().double()(*(x.cpu().double() for x in inputs)).float()
    assert difference(network(*inputs).cpu(), exact) < 0.01, "TF32 at most"
    assert difference(forward_pass(network, "bf16")(*inputs).cpu(), exact) < 0.05
    compiled = forward_pass(network, "fp32", compile=True)
    assert difference(compiled(*inputs).cpu(), exact) < 0.01


def losses(
    device: torch.device, network: nn.Module, compile: Compile, precision: str
) -> list[float]:
    network = copy.deepcopy(network)
    batches = batches_on(device, precision=precision, compile=compile, micro_batch=8)
    state, loss_of = TrainingState(network, batches.settings), EpsilonLoss(PROCESS)
    called = forward_pass(network, precision, compile=compile)
    found = []
    for step in range(20):
        torch.manual_seed(step)
        loss, _ = optimize(state, called, loss_of, batches.draw(step), batches.settings)
        found.append(float(loss))
    return found


@pytest.mark.parametrize(
    ("precision", "compile"),
    [
        ("bf16", False),
        pytest.param("fp32", True, marks=needs_compiler),
        pytest.param("bf16", "reduce-overhead", marks=needs_compiler),
    ],
)
def test_training_in_bf16_or_compiled_learns_as_in_fp32(device, network, precision, compile):
    expected = losses(device, network, False, "fp32")
    found = losses(device, network, compile, precision)
    assert expected[-1] < 0.8 * expected[0]
    assert found[-1] == pytest.approx(expected[-1], rel=0.1)


def test_the_gpu_gets_the_batches_of_the_cpu(device):
    here, there = batches_on(device).draw(5), batches_on(torch.device("cpu")).draw(5)
    for name in ("x0", "eps", "t"):
        assert torch.equal(getattr(here, name).cpu(), getattr(there, name)), name


@pytest.fixture
def alone_in_a_group(device) -> Iterator[Ranks]:
    """A process in a process group of one rank, which pretends to be one of two ranks."""
    on_gpu = device.type == "cuda"
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        timeout=WAIT_TIMEOUT,
        device_id=device if on_gpu else None,
        rank=0,
        world_size=1,
        store=dist.HashStore(),
    )
    yield Ranks(0, 2, device, dist.new_group(backend="gloo", timeout=WAIT_TIMEOUT))
    dist.destroy_process_group()


def test_one_rank_through_nccl(alone_in_a_group, device, network):
    """The parallel network has the gradients of the plain network, and an exchange of numbers does
    not wait for the GPU."""
    ranks, loss_of = alone_in_a_group, EpsilonLoss(PROCESS)
    network.eval()  # without dropout
    batch = batches_on(device).draw(0)
    gradients = []
    for called in (network, ranks.parallel(network)):
        network.zero_grad()
        accumulate_gradient(called, loss_of, batch, micro_batch=8)
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    assert difference(gradients[1], gradients[0]) < 1e-3
    ranks.limit_exchanges()
    with without_waiting():
        assert ranks.largest(7) == 7
        ranks.barrier()
    assert ranks.mean(torch.ones(2, device=device)).tolist() == [0.5, 0.5]


def test_rk45_agrees_with_the_cpu(device, network):
    """The step control does not follow the rounding of TF32."""
    settings = RK45Settings(integrator="rk45", tolerance=1e-2)
    ends = []
    for place in (device, torch.device("cpu")):
        moved = copy.deepcopy(network).eval().to(place)
        with ShardNoise(0, 0, (2, *SHAPE[1:]), place) as noise:
            start = PROCESS.prior(noise())
            ends.append(sample(PROCESS, settings, NetworkScore(moved, 2), start, noise).cpu())
    assert difference(ends[0], ends[1]) < 0.05
