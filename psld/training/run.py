"""A training from its settings to the files it leaves: what models and guides share."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from psld.data.store import ImageStore
from psld.diffusion.loss import Objective
from psld.diffusion.process import LinearProcess
from psld.training.batches import Batches, Labels
from psld.training.export import export_folder, publish
from psld.training.loop import NoLog, train
from psld.training.manifest import GuideManifest, ModelManifest, write_manifest
from psld.training.model import save_weights
from psld.training.ranks import Ranks, join_ranks
from psld.training.settings import RunSettings
from psld.training.state import Checkpoints, TrainingState
from psld.training.stop import STOP_SIGNALS, stop_on
from psld.utils.files import write_json
from psld.utils.locks import sole_holder
from psld.utils.provenance import device_name, provenance
from psld.utils.randomness import Stream, stream_seed


@dataclass(frozen=True)
class Task:
    """What is trained: everything in which models and guides differ."""

    stage: str
    """Name of the command."""
    manifest: type[ModelManifest] | type[GuideManifest]
    """The record of what was trained."""
    process: LinearProcess
    build: Callable[[], nn.Module]
    """Makes the network, its initial weights from torch's own generator."""
    loss_of: Objective
    labels: Labels | None
    look: Callable[[nn.Module], dict[str, Any]]
    """What to log of the averaged network every `preview_every` steps."""
    describe: Callable[[nn.Module], dict[str, Any]]
    """More about the final network, for the manifest."""


def run_training(
    settings: RunSettings,
    store: ImageStore,
    task: Task,
    begins: Callable[[Path, int], None] = lambda run, step: None,
) -> None:
    """Train, or go on from the last checkpoint, and write weights and manifest.

    All pixels are read once before: damage takes seconds to find now and days to suspect later.

    Args:
        begins: called by the leading rank with the run directory and the step at which this
            process begins.
    """
    store.verify()
    with ExitStack() as stack:
        ranks = stack.enter_context(join_ranks(settings.device))
        state = initial_state(settings, task, ranks)
        run = Path(settings.runs) / settings.run_name(store.digest)
        checkpoints = Checkpoints(run / "checkpoints", settings.training.milestone_every)
        if ranks.leads:
            waiting = f"{run}: another training is running there; waiting for its end"
            stack.enter_context(sole_holder(run / "lock", waiting))
        # The leading rank holds the lock, and what it sees of a shared folder holds for all.
        checkpoints.restore(state, ranks.device, ranks.of_leader(checkpoints.newest()))
        if ranks.leads:
            begins(run, state.step)
        if state.step < settings.training.steps:
            if ranks.leads and state.step:
                print(f"going on from step {state.step}: {checkpoints.folder}", flush=True)
            stop = stack.enter_context(stop_on(*STOP_SIGNALS))
            images, flip = store.images("train"), settings.dataset.flip
            batches = Batches(images, flip, task.process, settings.training, ranks, task.labels)
            log = NoLog()
            if ranks.leads:
                write_json(run / "settings.json", settings.model().model_dump(mode="json"))
            if ranks.leads and settings.wandb.mode != "disabled":
                from psld.training.wandb_log import WandbLog  # takes a second to import

                log = WandbLog(settings, run, task.stage, state.step, task.look)
                log = stack.enter_context(log)
            train(state, batches, task.loss_of, settings.training, ranks, checkpoints, log, stop)
        if ranks.leads:
            export(settings, state, task, store.digest, run, ranks)


def initial_state(settings: RunSettings, task: Task, ranks: Ranks) -> TrainingState:
    """The state at step 0, the same on every rank."""
    torch.manual_seed(stream_seed(settings.training.seed, Stream.INITIAL_WEIGHTS))
    return TrainingState(task.build().to(ranks.device), settings.training)


def export(
    settings: RunSettings,
    state: TrainingState,
    task: Task,
    dataset_digest: str,
    run: Path,
    ranks: Ranks,
) -> None:
    """Write the averaged weights and what was logged, then the manifest."""
    weights_sha256 = save_weights(export_folder(run), state.ema.network)
    manifest = task.manifest(
        name=settings.name,
        grid=settings.grid_name,
        settings=settings.model(),
        dataset_digest=dataset_digest,
        step=state.step,
        images_seen=state.step * settings.training.batch_size,
        parameters=sum(p.numel() for p in state.network.parameters()),
        seconds=round(state.seconds, 3),
        device=device_name(ranks.device),
        ranks=ranks.world,
        run=str(run),
        weights_sha256=weights_sha256,
        **task.describe(state.ema.network),
        **provenance(),
    )
    write_json(export_folder(run) / "history.json", state.history)
    write_manifest(export_folder(run), manifest)
    publish(run, Path(settings.output))
    print(f"wrote {settings.output}")
