"""A training from its settings to its files: the part that models and guides share."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from psld.data.store import ImageStore
from psld.diffusion.loss import Objective
from psld.networks.forward import enough_threads
from psld.training.batches import Batches, Labels
from psld.training.loop import Log, StopRequest, train
from psld.training.manifest import (
    GuideManifest,
    ModelManifest,
    WandbRun,
    export_folder,
    publish,
    write_history,
    write_manifest,
)
from psld.training.micro_batch import largest_micro_batch
from psld.training.model import save_weights
from psld.training.ranks import join_ranks, rank_of_environment
from psld.training.settings import RunSettings
from psld.training.state import Checkpoints, TrainingState
from psld.utils.device import choose_device, device_name, provenance
from psld.utils.errors import UserError
from psld.utils.files import write_json
from psld.utils.locks import sole_holder
from psld.utils.randomness import Stream, stream_seed

WORK_OF_A_THREAD = 1e10
"""As in `psld.networks.forward`, of a training step. On two cores under a load of 9, the demo's
network (2.4e9) took 5 steps a second with one thread, and one in 5 to 9 seconds with two."""


@dataclass(frozen=True)
class Task:
    """Everything in which the trainings of models and guides differ."""

    stage: str
    """Name of the command."""
    manifest: type[ModelManifest] | type[GuideManifest]
    build: Callable[[], nn.Module]
    """Returns the network; its initial weights come from torch's global generator."""
    loss_of: Objective
    labels: Labels | None
    preview: Callable[[nn.Module, Path], dict[str, float]]
    """Previews the averaged network every `preview_every` steps: returns numbers for the history,
    and may write a picture to the path."""
    finish: Callable[[nn.Module, Path, str], dict[str, Any]]
    """Gets the final network, the folder of its weights and their digest: may write more files, and
    returns more entries for the manifest."""


def run_training(
    settings: RunSettings,
    store: ImageStore,
    task: Task,
    on_start: Callable[[Path, int], None],
) -> float:
    """Train, or resume from the last checkpoint, and write weights and manifest.

    All pixels are checked first: that takes seconds, and damage would cost days. The leading rank
    calls `on_start` with the run directory and the first step.

    Returns:
        the last loss of the history.
    """
    store.images("train")
    choose_device(settings.device)  # Refuse a wrong one before anything is written.
    run = Path(settings.runs) / settings.run_name(store.digest)
    with ExitStack() as stack:
        # The leading rank takes the lock before it joins: nccl would not let the others wait.
        if rank_of_environment() == 0:
            waiting = f"{run}: another training is running there; waiting for its end"
            stack.enter_context(sole_holder(run / "lock", waiting))
        ranks = stack.enter_context(join_ranks(settings.device))
        torch.manual_seed(stream_seed(settings.training.seed, Stream.INITIAL_WEIGHTS))
        state = TrainingState(task.build().to(ranks.device), settings.training)
        checkpoints = Checkpoints(run / "checkpoints")
        # All ranks load the checkpoint that the leading one sees.
        newest = ranks.largest(checkpoints.newest() if ranks.leads else 0)
        checkpoints.restore(state, newest)
        if ranks.leads:
            on_start(run, state.step)
        if settings.training.micro_batch != "auto":
            state.micro_batch = settings.training.micro_batch
        elif state.step < settings.training.steps:
            held = store.images("train").nbytes
            state.micro_batch = largest_micro_batch(settings, ranks, state.micro_batch, held)
        part = settings.training.batch_size // ranks.world
        images = min(state.micro_batch or part, part)
        pixels = settings.dataset.image_size**2
        stack.enter_context(enough_threads(state.network, images, pixels, WORK_OF_A_THREAD))
        if state.step < settings.training.steps:
            stop = stack.enter_context(StopRequest())
            images, flip = store.images("train"), settings.dataset.flip
            noising = task.loss_of.noising
            batches = Batches(images, flip, noising, settings.training, ranks, task.labels)
            log = Log(run, task.preview)
            if ranks.leads:
                what = f"{settings.output} for {settings.training.steps} steps"
                print(f"training {what} on {device_name(ranks.device)}, in {run}", flush=True)
                if state.step:
                    print(f"going on from step {state.step}: {checkpoints.folder}", flush=True)
                write_json(run / "settings.json", settings.model().model_dump(mode="json"))
                if settings.wandb.mode != "disabled":
                    WandbRun.write(run, settings, task.stage)
                if settings.wandb.mode == "online":
                    from psld.training.wandb_runs import live_run  # takes a second to import

                    log.live = stack.enter_context(live_run(run))
            train(state, batches, task.loss_of, settings.training, ranks, checkpoints, log, stop)
            if ranks.leads and batches.resident is None:
                _check_again(store, run)
        if ranks.leads:
            folder, network = export_folder(run), state.ema.network
            weights_sha256 = save_weights(folder, network, settings.origin(store.digest))
            manifest = task.manifest(
                name=settings.name,
                grid=settings.grid_name,
                settings=settings.model(),
                dataset_digest=store.digest,
                class_names=store.class_names,
                step=state.step,
                images_seen=state.step * settings.training.batch_size,
                parameters=sum(p.numel() for p in state.network.parameters()),
                seconds=round(state.seconds, 3),
                device=device_name(ranks.device),
                ranks=ranks.world,
                run=str(run),
                weights_sha256=weights_sha256,
                **task.finish(network, folder, weights_sha256),
                **provenance(),
            )
            for place in (run, folder):  # A kill may have come after the last checkpoint.
                write_history(place, state.history)
            write_manifest(folder, manifest)
            publish(run, Path(settings.output))
            print(f"wrote {settings.output}; its run directory is {run}")
        return state.history[-1]["loss"]


def _check_again(store: ImageStore, run: Path) -> None:
    """Raise UserError if a file that was read during the training has other images now."""
    try:
        replace(store).images("train")  # Not the store itself: it keeps its digest.
    except UserError:
        raise UserError(
            f"{store.path}: overwritten during the training, which saw images of both; prepare the "
            f"dataset, delete {run}, and train again"
        ) from None
