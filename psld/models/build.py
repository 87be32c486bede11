"""The module that a training makes, of its settings, and what is written about its weights."""

import copy
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from psld.config.parts import imported
from psld.diffusion.denoiser import every_block
from psld.diffusion.loss import Batch
from psld.diffusion.process import LinearProcess
from psld.models.objectives import Facts, Loss
from psld.models.settings import GuideModelSettings, ModelSettings, TrainedSettings
from psld.networks.forward import PixelMean, enough_threads
from psld.utils.device import device_of, float32_by_default
from psld.utils.errors import UserError
from psld.utils.randomness import Stream, stream_seed

T = TypeVar("T", bound=TrainedSettings)

TIMED, MOST_TIMED = 0.5, 64
"""Seconds, and the most images, of a measurement of speed."""


def build_process(settings: TrainedSettings) -> LinearProcess:
    """Build the process; that of a denoiser has ε in all of its blocks."""
    process = settings.process.build()
    return every_block(process) if settings.serves_every_process else process


def with_network(settings: T, record: str | Path | None = None, *, trust: bool = False) -> T:
    """Return settings with the classes of network and objective, which building a module needs.

    Source, optimizer and the other parts may stay data. The arguments are those of `imported`.
    """
    objective = imported(settings.training.objective, record, trust=trust)
    training = settings.training.model_copy(update={"objective": objective})
    network = imported(settings.network, record, trust=trust)
    return settings.model_copy(update={"network": network, "training": training})


def facts_of(settings: TrainedSettings, process: LinearProcess, deviation: float = 1.0) -> Facts:
    """Return what the objective of a training may depend on.

    `deviation`: s of the training images, which a manifest notes; shipped modules keep their own.
    """
    init = getattr(settings, "init", None)
    facts = cast(Any, settings.training), settings.dataset, process, deviation
    return Facts(*facts, init and init.model.name)


def build(
    settings: ModelSettings | GuideModelSettings, process: LinearProcess, deviation: float = 1.0
) -> nn.Module:
    """Build the module that is trained: a network with the channels that its objective says."""
    objective, facts = settings.training.objective, facts_of(settings, process, deviation)
    part, size = settings.network, settings.dataset.image_size
    seen, given = objective.channels(settings.dataset, process)
    network: Any = part.build(seen, given, size, settings.num_classes)
    if settings.makes == "guide" and part.code:
        network = PixelMean(network)
    network.in_shape, network.in_bfloat16 = (seen, size, size), part.in_bfloat16
    network.takes_logarithm = part.takes_logarithm
    module: Any = objective.wrap(network, facts)
    module.in_shape, module.in_bfloat16 = network.in_shape, network.in_bfloat16
    module.data_deviation = deviation
    if not (module is network or type(module).__module__.startswith("psld.")):
        module.in_bfloat16 = False  # Layers of a custom wrapper may take float32: autocast.
    return module


def loss_of(settings: TrainedSettings, process: LinearProcess, deviation: float = 1.0) -> Loss:
    """Return the loss of a training; `deviation` as in `facts_of`."""
    objective, facts = settings.training.objective, facts_of(settings, process, deviation)
    return Loss(objective, facts, objective.noising(facts))


LEVELS = 5
"""The number of noise levels at which outputs are compared."""


@torch.no_grad()
def check_rebuilt(
    module: nn.Module, settings: TrainedSettings, process: LinearProcess, deviation: float = 1.0
) -> None:
    """Check that what is saved of a module is all that it computes with.

    A module that is built again, from other random numbers, gets its `state_dict()`; both have to
    give the same at `LEVELS` noise levels, in eval mode, and the module has to give it twice. It
    runs on a copy: module and generators stay as they are.

    Raises UserError if the outputs differ, and RuntimeError if the settings make another module.
    """
    device, kept = device_of(module), copy.deepcopy(module).eval()
    where = f"network={getattr(settings.network, settings.network.KEY)}"
    if (objective := settings.training.objective).code:
        where += f", training.objective={objective.kind}"
    with kept_generators(device), float32_by_default():
        torch.manual_seed(stream_seed(settings.training.seed, Stream.REBUILT_WEIGHTS))
        rebuilt = build(cast(Any, settings), process, deviation).to(device).eval()
        rebuilt.load_state_dict(kept.state_dict())
        inputs = _inputs_at_levels(settings, rebuilt, device)
        first, other, again = kept(*inputs), rebuilt(*inputs), kept(*inputs)
    for found, wrong in (
        (again, "in eval mode it gives something else at each call"),
        (other, "built again and loaded with its weights, it gives something else"),
    ):
        if not torch.allclose(first, found, rtol=1e-4, atol=1e-5, equal_nan=True):
            right = "what it computes with has to be a parameter or a persistent buffer"
            raise UserError(f"{where}: {wrong}; {right}")


def _inputs_at_levels(
    settings: TrainedSettings, module: nn.Module, device: torch.device
) -> tuple[Tensor, ...]:
    """Return images and noise levels, or states and times, that a module is called with."""
    low, high = settings.levels
    time = torch.linspace(settings.training.time_eps, 1, LEVELS)
    scale = torch.ones(LEVELS)
    if settings.serves_every_process:
        time = torch.linspace(math.log(low), math.log(high), LEVELS).exp()
        scale = (1 + time.square()).sqrt()
    z = torch.randn(LEVELS, *cast(tuple[int, ...], module.in_shape)) * scale[:, None, None, None]
    labels = (torch.arange(LEVELS) % (settings.num_classes + 1),) if settings.num_classes else ()
    return tuple(each.to(device) for each in (z, time, *labels))


@contextmanager
def kept_generators(device: torch.device) -> Iterator[None]:
    """Give torch's generators, of the CPU and of a GPU, their state back."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


def try_loss(module: nn.Module, loss: Loss, has_labels: bool) -> tuple[float, bool]:
    """Return the loss of two random images, and whether some weights have no gradient of it.

    Module and generators stay as they are. Several ranks have to know of such weights, because they
    would wait for the gradients.
    """
    facts, noising = loss.facts, loss.noising
    channels, size = facts.dataset.channels, facts.dataset.image_size
    device, module = device_of(module), copy.deepcopy(module).train()
    with kept_generators(device):
        x0, *noise = (
            torch.randn(2, blocks * channels, size, size, device=device)
            for blocks in (1, noising.blocks, noising.auxiliary)
        )
        t = noising.levels(torch.rand(2, dtype=torch.float64))
        classes = torch.zeros(2, dtype=torch.int64, device=device) if has_labels else None
        batch = Batch(x0, t, noise[0], noise[1] if noising.auxiliary else None, classes)
        value = loss(module, batch)
        value.backward()
    lacking = any(each.requires_grad and each.grad is None for each in module.parameters())
    return float(value.detach()), lacking


@torch.no_grad()
def forward_flops(network: nn.Module) -> int:
    """Return the FLOPs of one image through a network; a multiply-add counts as two."""
    from torch.utils.flop_counter import FlopCounterMode  # imports triton

    device, shape = device_of(network), cast(tuple[int, ...], network.in_shape)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *shape, device=device), torch.ones(1, device=device))
    return counter.get_total_flops()


def seconds_per_image(settings: ModelSettings | GuideModelSettings) -> float:
    """Measure the seconds of a core, without waiting, for an image in a training step."""
    network = build(settings, build_process(settings)).eval()

    def seconds(count: int) -> float:
        images, levels = torch.zeros(count, *cast(Any, network.in_shape)), torch.ones(count)
        started = time.process_time()
        network(images, levels).sum().backward()
        return time.process_time() - started

    with enough_threads(network, images=1, pixels=1):  # one
        count = 1
        # The first of each number of images also prepares the kernels.
        while (least := min(seconds(count), seconds(count))) < TIMED and count < MOST_TIMED:
            count *= 4
    return least / count
