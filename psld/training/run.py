"""Run a training from its settings to its exported model."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from pathlib import Path
from time import strftime
from typing import Any

import numpy as np
import torch
from torch import nn

from psld.config.parts import import_all, imported, save_code
from psld.config.settings import changes
from psld.data.pictures import decoder
from psld.data.store import ImageStore
from psld.models.build import (
    build,
    build_process,
    check_rebuilt,
    loss_of,
    seconds_per_image,
    try_loss,
)
from psld.models.objectives import Loss, check_uses
from psld.models.start import deviation
from psld.networks.forward import enough_threads
from psld.training.batches import Batches, Labels
from psld.training.export import write_model
from psld.training.files import (
    HISTORY,
    WANDB,
    TrainingHistory,
    WandbRun,
    export_folder,
    is_exported,
    note_replaced,
    publish,
    whole_export,
    write_history,
)
from psld.training.init import take_weights, with_sources
from psld.training.loggers import LOGGED, fed
from psld.training.loop import Log, StopRequest, check_schedule, hooks_of, train
from psld.training.ranks import Ranks, join_ranks
from psld.training.settings import Trained
from psld.training.state import Checkpoints, TrainingState
from psld.utils.device import choose_device, device_name
from psld.utils.environment import rank_of_environment
from psld.utils.errors import UserError
from psld.utils.files import STEP, write_json
from psld.utils.locks import held_if_free, sole_holder
from psld.utils.progress import about
from psld.utils.randomness import Stream, stream_seed

WORK_OF_A_THREAD = 1e10
"""The work of a training step for each CPU thread. The unit is the same as for
`psld.networks.forward.WORK_OF_A_THREAD`. The work of the demo's network is 2.4e9, so this network
is trained with one thread. On two cores with a load of 9, one thread made 5 training steps per
second, whereas two threads needed 5 to 9 seconds per step."""


@dataclass(frozen=True)
class Setup:
    """The inputs of a training, built and checked before any file is written."""

    settings: Trained
    """The settings. All custom parts are imported except the source of the dataset."""
    run: Path
    """The run directory."""
    store: ImageStore
    images: np.ndarray
    labels: Labels | None
    loss: Loss
    network: nn.Module
    """The network with its initial weights."""
    has_unused_weights: bool

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.run / "checkpoints")


def run_training(settings: Trained, on_start: Callable[[Path, int], None]) -> float:
    """Train, or resume from the last checkpoint, and write the weights and the manifest.

    Args:
        on_start: called on rank 0 with the run directory and the first step.

    Returns the last loss of the history.
    """
    setup = prepare(settings)
    settings, run = setup.settings, setup.run
    with ExitStack() as stack:
        # Rank 0 waits for the lock before it joins the ranks. After joining, nccl would limit how
        # long the other ranks wait.
        if rank_of_environment() == 0:
            waiting = f"{run}: another training is running there; waiting for its end"
            stack.enter_context(sole_holder(run / "lock", waiting))
        ranks = stack.enter_context(join_ranks(settings.device))
        state = restore(setup, ranks)
        if state is None:  # Another training with several averages has exported this model.
            if ranks.leads:
                _publish(run, settings)
            return TrainingHistory.read(export_folder(run) / HISTORY).entries[-1].loss
        if ranks.leads:
            on_start(run, state.step)
        train_on(setup, state, ranks, stack)
        if ranks.leads:
            export_all(setup, state, ranks)
            _publish(run, settings)
        return state.history[-1]["loss"]


def prepare(settings: Trained) -> Setup:
    """Read the dataset, and build the network and the loss of a training.

    All pixels are verified. This takes seconds, but training on damaged data could waste days.

    Raises UserError if the settings, the dataset and the initial model do not fit together.
    """
    settings = with_sources(settings, settings.output)
    store = ImageStore.open_for(settings.data, settings.dataset)
    choose_device(settings.device)  # Raise for an unknown device before any file is written.
    run = Path(settings.runs) / settings.run_name(store.digest)
    # Do not import the source of the dataset: a training does not need the source, and its code may
    # come from the record of another user.
    update = imported({key: each for key, each in settings if key != "dataset"}, copies=run)
    settings = settings.model_copy(update=update)
    import_all(settings)
    training, process = settings.training, build_process(settings)
    check_schedule(training)
    check_uses(training)
    images, labels = store.images("train"), labels_of(settings, store)
    if training.preview_every and (decode := settings.dataset.decode):
        decoder(decode, "cpu", store.path.parent)  # Previews need its weights.
    needs_deviation = training.objective.needs_deviation
    spread = deviation(store, settings.dataset.flip) if needs_deviation else 1.0
    loss = loss_of(settings, process, spread)
    torch.manual_seed(stream_seed(training.seed, Stream.INITIAL_WEIGHTS))
    network = build(settings, process, spread)
    if settings.init is not None and not Checkpoints(run / "checkpoints").newest():
        taken = take_weights(network, settings)
        if rank_of_environment() == 0:
            print(taken, flush=True)
    is_custom = bool(settings.network.code or training.objective.code)
    if is_custom:
        check_rebuilt(network, settings, process, spread)
    unused = is_custom and try_loss(network, loss, labels is not None)[1]
    return Setup(settings, run, store, images, labels, loss, network, unused)


def restore(setup: Setup, ranks: Ranks) -> TrainingState | None:
    """Return the state of the newest checkpoint or, without checkpoints, the initial state.

    The state is on the device of this rank. Return None if there is no checkpoint but the run
    directory holds a finished model.
    """
    settings, run, checkpoints = setup.settings, setup.run, setup.checkpoints
    network = setup.network.to(ranks.device)
    state = TrainingState(network, settings.training, settings.averages)
    state.has_unused_weights = setup.has_unused_weights
    if ranks.leads:
        save_code(settings, run)
    # All ranks load the checkpoint that rank 0 finds.
    newest = ranks.largest(checkpoints.newest_whole() if ranks.leads else 0)
    if ranks.leads:
        note_replaced(run, Path(settings.output))
    whole = ranks.leads and not newest and whole_export(run)
    if ranks.largest(int(bool(whole))):
        return None
    checkpoints.restore(state, newest)
    if ranks.leads:
        for name in settings.averages:
            if f"averages.{name}" not in state.averages:
                alone = f"train {name} separately"
                print(f"averages.{name}: this training started without this average; {alone}")
    if settings.training.micro_batch != "auto":
        state.micro_batch = settings.training.micro_batch
    return state


def train_on(setup: Setup, state: TrainingState, ranks: Ranks, stack: ExitStack) -> None:
    """Train from the step of the state to the last step.

    Loggers and signal handlers stay active until `stack` is closed.
    """
    settings, run, training = setup.settings, setup.run, setup.settings.training
    part = training.batch_size // ranks.world
    size, (_, height, width) = min(state.micro_batch or part, part), settings.dataset.shape
    stack.enter_context(enough_threads(state.network, size, height * width, WORK_OF_A_THREAD))
    if state.step == training.steps:
        # Feed the loggers, because a killed training may have ended before it fed them.
        if ranks.leads and not is_exported(run):
            stack.enter_context(fed(settings.logger, run, settings, state.history))
        return
    left, on_cpu = (training.steps - state.step) * part, ranks.device.type == "cpu"
    time = f"; {_time_on_cpu(settings, left)}" if on_cpu and ranks.leads else ""
    stop, noising = stack.enter_context(StopRequest()), setup.loss.noising
    flip, labels = settings.dataset.flip, setup.labels
    batches = Batches(setup.images, flip, noising, training, ranks, labels, setup.store.units)
    log = Log(run, partial(preview, setup.loss, setup.store))
    if ranks.leads:
        what = f"{settings.output} for {training.steps} steps"
        print(f"training {what} on {device_name(ranks.device)}, in {run}{time}", flush=True)
        if state.step:
            print(f"resuming from step {state.step}: {setup.checkpoints.folder}", flush=True)
        write_json(run / "settings.json", settings.model().model_dump(mode="json"))
        if settings.wandb.mode != "disabled":
            WandbRun.write(run, settings)
        if settings.wandb.mode == "online":
            from psld.training.wandb_runs import live_run  # takes a second to import

            log.live.append(stack.enter_context(live_run(run)))
        log.live.append(stack.enter_context(fed(settings.logger, run, settings, state.history)))
    with hooks_of(setup.checkpoints, log) as hooks:
        train(state, batches, setup.loss, ranks, hooks, stop)
    if ranks.leads and batches.resident is None:
        _check_unchanged(setup.store, setup.checkpoints.folder)
    batches.close()


def export_all(setup: Setup, state: TrainingState, ranks: Ranks) -> None:
    """Export each average as a model into the run directory of that model.

    Run directories that another training uses or has used are not changed.
    """
    settings, run, store, loss = setup.settings, setup.run, setup.store, setup.loss
    made = {"device": device_name(ranks.device), "ranks": ranks.world}
    for name in settings.averages:
        if average := state.averages.get(f"averages.{name}"):
            own = settings.of_average(name)
            own_run = Path(settings.runs) / own.run_name(store.digest)
            with held_if_free(own_run / "lock") as is_free:
                if is_free and not _has_started(own_run):
                    export(own_run, own, average.network, state, loss, store, **made)
    # Do not replace a complete export with the same settings: its manifest states how the model was
    # trained.
    whole = whole_export(run)
    if not whole or changes(whole.settings, settings.model()):
        export(run, settings, state.average.network, state, loss, store, **made)


def export(
    run: Path,
    settings: Trained,
    network: nn.Module,
    state: TrainingState,
    loss: Loss,
    store: ImageStore,
    **made: Any,
) -> None:
    """Write the model and the history of a finished training into a run directory."""
    folder = export_folder(run)
    if settings.network.code or settings.training.objective.code:
        check_rebuilt(network, settings, loss.facts.process, loss.facts.deviation)
    measured = {**loss.objective.measured(loss.facts, network, store)}
    save_code(settings, folder)
    # Write the history into `run`, too: a killed training may not have written it.
    for place in (run, folder):
        write_history(place, state.history)
    made |= {"seconds": round(state.seconds, 3), "run": str(run), "micro_batch": state.micro_batch}
    write_model(folder, settings, network, store, state.step, **(measured | made))


def preview(loss: Loss, store: ImageStore, module: nn.Module, picture: Path) -> dict[str, float]:
    numbers = loss.objective.preview(loss.facts, module, store, picture)
    # The history is JSON, which cannot hold NaN or infinity.
    return {name: float(number) for name, number in numbers.items() if isfinite(number)}


def labels_of(settings: Trained, store: ImageStore) -> Labels | None:
    """Return the labels of the training images if the network predicts or accepts classes."""
    dropout = getattr(settings.training, "label_dropout", None) or 0.0
    if settings.makes == "guide" or dropout:
        return Labels(store.labels("train"), store.num_classes, dropout)
    return None


def _has_started(run: Path) -> bool:
    """Check if another training has started in this run directory."""
    return is_exported(run) or bool(Checkpoints(run / "checkpoints").newest())


def _publish(run: Path, settings: Trained) -> None:
    done = "wrote" if publish(run, Path(settings.output)) else "nothing new for"
    print(f"{done} {settings.output}; its run directory is {run}")


def _time_on_cpu(settings: Trained, images: int) -> str:
    """Return the estimated time to train on `images` images per rank, as text."""
    return about(images * seconds_per_image(settings) / torch.get_num_threads())


def _check_unchanged(store: ImageStore, checkpoints: Path) -> None:
    """Raise UserError if the dataset was overwritten while the training read it.

    The checkpoints are then moved to another folder, so that no training resumes from them.
    """
    try:
        replace(store).images("train")  # Use a new store, because `store` has cached its digest.
    except UserError:
        aside = checkpoints.with_name(f"{checkpoints.name}-{strftime('%Y%m%d-%H%M%S')}")
        checkpoints.rename(aside)
        for name in (STEP, LOGGED, WANDB):  # Remove the files of the moved checkpoints.
            (checkpoints.parent / name).unlink(missing_ok=True)
        raise UserError(
            f"{store.path}: overwritten during the training, which read old and new images; its "
            f"checkpoints are in {aside} now; prepare the dataset again, and then train again"
        ) from None
