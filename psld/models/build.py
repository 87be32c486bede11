"""Build the module that is trained, check that it can be rebuilt, and measure its cost."""

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
"""A speed measurement uses more images until it takes TIMED seconds or has MOST_TIMED images."""


def build_process(settings: TrainedSettings) -> LinearProcess:
    """Build the process. For a denoiser, the process predicts ε in all blocks of its state.

    Raises UserError if a custom process has a different number of blocks than its class declares.
    Records store the declared number, because reading a record does not import the class.
    """
    process = settings.process.build()
    if process.blocks != settings.process.blocks:
        raise UserError(
            f"process: {settings.process.kind} builds {process.blocks} blocks, and its class has "
            f"blocks = {settings.process.blocks}; set `blocks` in the class"
        )
    return every_block(process) if settings.serves_every_process else process


def with_network(settings: T, record: str | Path | None = None, *, trust: bool = False) -> T:
    """Return the settings with the code of the network, process and objective imported.

    Building a module needs no other code, so the code of other custom parts, such as the optimizer,
    is not imported. For `record` and `trust`, see `imported`.
    """
    process = imported(settings.process, record, trust=trust)
    objective = imported(settings.training.objective, record, trust=trust)
    training = settings.training.model_copy(update={"objective": objective})
    network = imported(settings.network, record, trust=trust)
    parts = {"network": network, "process": process, "training": training}
    return settings.model_copy(update=parts)


def facts_of(settings: TrainedSettings, process: LinearProcess, deviation: float = 1.0) -> Facts:
    """Return the facts that the objective of a training may use.

    `deviation`: s, the standard deviation of the training images, as recorded in a manifest.
    Shipped modules also store s in a buffer.
    """
    init = getattr(settings, "init", None)
    facts = cast(Any, settings.training), settings.dataset, process, deviation
    return Facts(*facts, init and init.model.name)


def build(
    settings: ModelSettings | GuideModelSettings, process: LinearProcess, deviation: float = 1.0
) -> nn.Module:
    """Build the module that is trained.

    The module contains a network with the channels that the objective needs.
    """
    objective, facts = settings.training.objective, facts_of(settings, process, deviation)
    part, size = settings.network, settings.dataset.shape[1:]
    seen, given = objective.channels(settings.dataset, process)
    network: Any = part.build(seen, given, settings.dataset.image_size, settings.num_classes)
    if settings.makes == "guide" and part.code:
        network = PixelMean(network)
    network.in_shape, network.in_bfloat16 = (seen, *size), part.in_bfloat16
    network.takes_logarithm = part.takes_logarithm
    module: Any = objective.wrap(network, facts)
    module.in_shape, module.in_bfloat16 = network.in_shape, network.in_bfloat16
    module.data_deviation = deviation
    if not (module is network or type(module).__module__.startswith("psld.")):
        # The layers of a custom wrapper may need float32, so the wrapper runs with autocast.
        module.in_bfloat16 = False
    return module


def loss_of(settings: TrainedSettings, process: LinearProcess, deviation: float = 1.0) -> Loss:
    """Return the loss of a training; see `facts_of` for `deviation`."""
    objective, facts = settings.training.objective, facts_of(settings, process, deviation)
    return Loss(objective, facts, objective.noising(facts))


LEVELS = 5
"""The number of noise levels at which `check_rebuilt` compares outputs."""


@torch.no_grad()
def check_rebuilt(
    module: nn.Module, settings: TrainedSettings, process: LinearProcess, deviation: float = 1.0
) -> None:
    """Check that the settings and the `state_dict()` of a module determine its output.

    A second module, built with different random numbers, loads the `state_dict()`. In eval mode,
    both modules must give the same outputs at `LEVELS` noise levels, and the first module must give
    the same outputs in a second call. The check does not change the module or torch's
    random generators.

    Raises UserError if the outputs differ, and RuntimeError if the second module cannot load the
    `state_dict()`.
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
        (again, "the output changes from call to call in eval mode"),
        (other, "the output changes when the module is rebuilt and its weights are loaded"),
    ):
        if not torch.allclose(first, found, rtol=1e-4, atol=1e-5, equal_nan=True):
            right = "store everything it depends on as a parameter or a persistent buffer"
            raise UserError(f"{where}: {wrong}; {right}")


def _inputs_at_levels(
    settings: TrainedSettings, module: nn.Module, device: torch.device
) -> tuple[Tensor, ...]:
    """Return random inputs of a module: noisy images and noise levels, or states and times."""
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
    """Restore torch's random generators for the CPU and the GPU at the end of the block."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


def try_loss(module: nn.Module, loss: Loss, has_labels: bool) -> tuple[float, bool]:
    """Return the loss of two random images, and whether some parameters get no gradient.

    The module and torch's random generators do not change. A training on several ranks must know if
    there are parameters without gradients, because otherwise it would wait for these gradients.
    """
    facts, noising = loss.facts, loss.noising
    channels, *size = facts.dataset.shape
    device, module = device_of(module), copy.deepcopy(module).train()
    with kept_generators(device):
        x0, *noise = (
            torch.randn(2, blocks * channels, *size, device=device)
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
    """Return the FLOPs of a forward pass for one image; a multiply-add counts as two FLOPs."""
    from torch.utils.flop_counter import FlopCounterMode  # imports triton

    device, shape = device_of(network), cast(tuple[int, ...], network.in_shape)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *shape, device=device), torch.ones(1, device=device))
    return counter.get_total_flops()


def seconds_per_image(settings: ModelSettings | GuideModelSettings) -> float:
    """Measure the CPU time, in seconds per image, of a forward and a backward pass on one core."""
    network = build(settings, build_process(settings)).eval()

    def seconds(count: int) -> float:
        images, levels = torch.zeros(count, *cast(Any, network.in_shape)), torch.ones(count)
        started = time.process_time()
        network(images, levels).sum().backward()
        return time.process_time() - started

    with enough_threads(network, images=1, pixels=1):  # Use a single thread.
        count = 1
        # Take the minimum of two calls, because the first call with each number of images includes
        # the setup of kernels.
        while (least := min(seconds(count), seconds(count))) < TIMED and count < MOST_TIMED:
            count *= 4
    return least / count
