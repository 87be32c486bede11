"""The module that a training makes, of its settings, and what is written about its weights."""

import time
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from psld.config.parts import naming
from psld.config.settings import write_record
from psld.data.store import ImageStore
from psld.diffusion.denoiser import every_block
from psld.diffusion.process import LinearProcess
from psld.networks import forward
from psld.networks.forward import enough_threads
from psld.training.manifest import MANIFEST, WEIGHTS, kind_of
from psld.training.objectives import Facts, Loss
from psld.training.settings import GuideModelSettings, ModelSettings, RunSettings, TrainedSettings
from psld.utils.device import device_of, provenance
from psld.utils.tensors import save_tensors

TIMED, MOST_TIMED = 0.5, 64
"""Seconds, and the most images, of a measurement of speed."""


def build_process(settings: TrainedSettings) -> LinearProcess:
    """Build the process; that of a denoiser has ε in all of its blocks."""
    process = settings.process.build()
    return every_block(process) if settings.serves_every_process else process


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
    with naming("training.objective", objective, "channels"):
        seen, given = objective.channels(settings.dataset, process)
    network = forward.build(
        settings.network,
        seen,
        given,
        settings.dataset.image_size,
        settings.num_classes,
        gives_logits=settings.makes == "guide",
    )
    with naming("training.objective", objective, "wrap"):
        module: Any = objective.wrap(network, facts)
        if not isinstance(module, nn.Module):
            raise TypeError(f"a torch.nn.Module is needed, not {type(module).__name__}")
    noted: Any = module
    noted.in_shape, noted.in_bfloat16 = network.in_shape, network.in_bfloat16
    noted.data_deviation = deviation
    if not (module is network or type(module).__module__.startswith("psld.")):
        noted.in_bfloat16 = False  # Layers of a wrapper of one's own may take float32: autocast.
    return module


def loss_of(settings: TrainedSettings, process: LinearProcess, deviation: float = 1.0) -> Loss:
    """Return the loss of a training; `deviation` as in `facts_of`."""
    objective, facts = settings.training.objective, facts_of(settings, process, deviation)
    with naming("training.objective", objective, "noising"):
        return Loss(objective, facts, objective.noising(facts))


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


def write_model(
    folder: str | Path,
    settings: RunSettings,
    network: nn.Module,
    store: ImageStore | None,
    step: int | None,
    **more: Any,
) -> None:
    """Write weights, with all that decided them, and last their manifest, which has `more`.

    The dataset of a model that was not trained here may not be prepared: then `store` is None.
    """
    origin = settings.origin(store and store.digest)
    if imported := more.get("imported"):
        origin = imported.model_dump(exclude={"file"})
    path = Path(folder) / WEIGHTS
    manifest = kind_of(settings)(
        name=settings.name,
        grid=settings.grid_name,
        settings=cast(Any, settings.model()),
        dataset_digest=store and store.digest,
        class_names=store.class_names if store else (),
        step=step,
        images_seen=step and step * settings.training.batch_size,
        parameters=sum(p.numel() for p in network.parameters()),
        deviation=getattr(network, "data_deviation", 1.0),
        weights_sha256=save_tensors(path, "weights", network.state_dict(), origin),
        **more,
        **provenance(),
    )
    write_record(Path(folder) / MANIFEST, manifest)
