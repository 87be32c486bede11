"""A training from its settings to its files, and its previews.

A preview shows a model's samples, or a guide's accuracy by noise level, always with the same noise.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from psld.config.parts import known, save_code
from psld.data.store import ImageStore, from_uint8, to_uint8
from psld.diffusion.loop import sample
from psld.diffusion.process import LinearProcess
from psld.diffusion.samplers import EMSettings
from psld.diffusion.score import NetworkScore
from psld.networks.forward import enough_threads
from psld.training.batches import Batches, Labels
from psld.training.loggers import fed
from psld.training.loop import Log, StopRequest, check_schedule, train
from psld.training.manifest import (
    WandbRun,
    checkpoint_folder,
    export_folder,
    note_replaced,
    publish,
    write_history,
    write_manifest,
)
from psld.training.mixture import deviation
from psld.training.model import (
    build,
    build_process,
    describe,
    objective,
    on_states,
    save_weights,
    seconds_per_image,
)
from psld.training.ranks import Ranks, join_ranks, rank_of_environment
from psld.training.settings import GuideModelSettings, ModelSettings, Trained
from psld.training.state import Checkpoints, TrainingState
from psld.utils.device import choose_device, device_name, device_of
from psld.utils.errors import UserError
from psld.utils.files import write_json
from psld.utils.locks import sole_holder
from psld.utils.progress import about
from psld.utils.randomness import Stream, generator, stream_seed

WORK_OF_A_THREAD = 1e10
"""As in `psld.networks.forward`, of a training step. On two cores under a load of 9, the demo's
network (2.4e9) took 5 steps a second with one thread, and one in 5 to 9 seconds with two."""

PREVIEW_SAMPLES = 64
PREVIEW_SAMPLER = EMSettings(integrator="em", striding="quadratic", steps=50)

DAY = 86_400  # seconds

BINS = 10
"""Noise levels: ranges of the forward time of equal length, from 0 to 1."""
TEST_IMAGES = 1000
"""The largest number of images for the accuracy, spread evenly over the split."""
PREVIEW_BATCH = 250


def run_training(settings: Trained, on_start: Callable[[Path, int], None]) -> float:
    """Train, or resume from the last checkpoint, and write weights and manifest.

    All pixels are checked first: that takes seconds, and damage would cost days.

    `on_start` gets the run directory and the first step, on the leading rank. Return the last loss
    of the history.
    """
    store = ImageStore.open_for(settings.data, settings.dataset)
    choose_device(settings.device)  # Refuse a wrong one before anything is written.
    run = Path(settings.runs) / settings.run_name(store.digest)
    settings = known(settings, run)
    check_schedule(settings.training)
    training, process = settings.training, build_process(settings)
    images, flip = store.images("train"), settings.dataset.flip
    labels, sigma_data = None, 1.0
    if not isinstance(settings, ModelSettings):
        labels = Labels(store.labels("train"), store.num_classes)
    else:
        if dropout := settings.training.label_dropout:
            labels = Labels(store.labels("train"), store.num_classes, dropout)
        if settings.serves_every_process:
            sigma_data = deviation(store, flip)
    loss_of = objective(settings, process, sigma_data)
    torch.manual_seed(stream_seed(training.seed, Stream.INITIAL_WEIGHTS))
    network = build(settings, process, sigma_data)

    def preview(network: nn.Module, picture: Path) -> dict[str, float]:
        if isinstance(settings, ModelSettings):
            preview_samples(settings, process, network, picture)
            return {}
        return as_logged(accuracy_by_time(settings, process, store, network))

    with ExitStack() as stack:
        # The leading rank takes the lock before it joins: nccl would not let the others wait.
        if rank_of_environment() == 0:
            waiting = f"{run}: another training is running there; waiting for its end"
            stack.enter_context(sole_holder(run / "lock", waiting))
        ranks = stack.enter_context(join_ranks(settings.device))
        state = TrainingState(network.to(ranks.device), training)
        checkpoints = Checkpoints(checkpoint_folder(run))
        # All ranks load the checkpoint that the leading one sees.
        newest = ranks.largest(checkpoints.newest() if ranks.leads else 0)
        checkpoints.restore(state, newest)
        if ranks.leads:
            on_start(run, state.step)
        if training.micro_batch != "auto":
            state.micro_batch = training.micro_batch
        part = training.batch_size // ranks.world
        size, pixels = min(state.micro_batch or part, part), settings.dataset.image_size**2
        stack.enter_context(enough_threads(state.network, size, pixels, WORK_OF_A_THREAD))
        time = ""
        if state.step < training.steps and ranks.device.type == "cpu":
            left = (training.steps - state.step) * part
            time = _time_on_cpu(settings, left, ranks)
        if ranks.leads:
            note_replaced(run, Path(settings.output))
        if state.step < training.steps:
            stop = stack.enter_context(StopRequest())
            batches = Batches(images, flip, loss_of.noising, training, ranks, labels)
            log = Log(run, preview)
            if ranks.leads:
                what = f"{settings.output} for {training.steps} steps"
                print(f"training {what} on {device_name(ranks.device)}, in {run}{time}", flush=True)
                if state.step:
                    print(f"going on from step {state.step}: {checkpoints.folder}", flush=True)
                write_json(run / "settings.json", settings.model().model_dump(mode="json"))
                save_code(settings, run)
                if settings.wandb.mode != "disabled":
                    WandbRun.write(run, settings)
                if settings.wandb.mode == "online":
                    from psld.training.wandb_runs import live_run  # takes a second to import

                    log.live.append(stack.enter_context(live_run(run)))
                for logger in settings.logger:
                    log.live.append(stack.enter_context(fed(logger, run, settings, state.step)))
            train(state, batches, loss_of, training, ranks, checkpoints, log, stop)
            if ranks.leads and batches.resident is None:
                _check_again(store, run)
            batches.close()
        if ranks.leads:
            folder, network, more = export_folder(run), state.average.network, {}
            if not isinstance(settings, ModelSettings):
                accuracies = accuracy_by_time(settings, process, store, network)
                shown, split = ", ".join(f"{a:.2f}" for a in accuracies), split_of_accuracy(store)
                print(f"accuracy on the {split} split, from little to much noise: {shown}")
                more = {"accuracy_by_time": accuracies}
            weights_sha256 = save_weights(folder, network, settings.origin(store.digest))
            manifest = describe(
                settings,
                network,
                store,
                state.step,
                seconds=round(state.seconds, 3),
                device=device_name(ranks.device),
                ranks=ranks.world,
                run=str(run),
                micro_batch=state.micro_batch,
                weights_sha256=weights_sha256,
                **more,
            )
            save_code(settings, folder)
            for place in (run, folder):  # A kill may have come after the last checkpoint.
                write_history(place, state.history)
            write_manifest(folder, manifest)
            done = "wrote" if publish(run, Path(settings.output)) else "nothing new for"
            print(f"{done} {settings.output}; its run directory is {run}")
        return state.history[-1]["loss"]


def _time_on_cpu(settings: Trained, images: int, ranks: Ranks) -> str:
    """Return, as a clause, the time of so many images on each rank.

    Raises UserError on all ranks above a day, unless the CPU is asked for.
    """
    seconds = images * seconds_per_image(settings) / torch.get_num_threads() if ranks.leads else 0
    seconds = ranks.largest(int(seconds))
    if seconds > DAY and settings.device == "auto":
        steps = images * ranks.world // settings.training.batch_size
        raise UserError(
            f"{settings.output}: {steps:,} steps take {about(seconds)} on this CPU; use a GPU, or "
            f"give training.steps={steps * DAY / seconds:.0f}, or device=cpu for all of them"
        )
    return f"; {about(seconds)}"


def _check_again(store: ImageStore, run: Path) -> None:
    """Raise UserError if a file that was read during the training has other images now."""
    try:
        replace(store).images("train")  # Not the store itself: it keeps its digest.
    except UserError:
        raise UserError(
            f"{store.path}: overwritten during the training, which saw images of both; prepare the "
            f"dataset, delete {run}, and train again"
        ) from None


def preview_samples(
    settings: ModelSettings, process: LinearProcess, network: nn.Module, picture: Path
) -> None:
    """Write samples of the network to a picture; of a class-conditional one, without a class."""
    from psld.data.images import save_images  # Most commands make no preview.

    device = device_of(network)
    dataset = settings.dataset
    stream = generator(device, settings.training.seed, Stream.PREVIEW)
    shape = (process.blocks * dataset.channels, dataset.image_size, dataset.image_size)

    def noise(z: Tensor) -> Tensor:
        return torch.randn(z.shape, generator=stream, device=device)

    start = process.prior(noise(torch.empty(PREVIEW_SAMPLES, *shape)))
    score = NetworkScore(on_states(settings, process, network), batch_size=PREVIEW_SAMPLES)
    z = sample(process, PREVIEW_SAMPLER, score, start, noise, silent=True)
    images = to_uint8(z[:, : dataset.channels])
    save_images(images.cpu().numpy(), picture)


def split_of_accuracy(store: ImageStore) -> Literal["test", "train"]:
    return "test" if store.splits["test"] else "train"


@torch.no_grad()
def accuracy_by_time(
    settings: GuideModelSettings, process: LinearProcess, store: ImageStore, network: nn.Module
) -> list[float]:
    """The share of images whose class is recognized at a time in [i/10, (i + 1)/10], for each i.

    The images come from the test split, or from the training split if there is no other.
    """
    split = split_of_accuracy(store)
    count = store.splits[split]
    chosen = np.linspace(0, count - 1, min(TEST_IMAGES, count)).astype(int)
    device = device_of(network)
    x0 = from_uint8(torch.from_numpy(store.images(split)[chosen])).to(device)
    labels = torch.from_numpy(store.labels(split)[chosen]).to(device)
    logits, accuracies = on_states(settings, process, network), []
    for index in range(BINS):
        stream = generator("cpu", settings.training.seed, Stream.PREVIEW, index)
        t = (index + torch.rand(len(x0), dtype=torch.float64, generator=stream)) / BINS
        t = t.clamp(min=settings.training.time_eps)
        answers = []
        for x, time in zip(x0.split(PREVIEW_BATCH), t.split(PREVIEW_BATCH), strict=True):
            shape = (len(x), process.blocks * x.shape[1], *x.shape[2:])
            eps, auxiliary = torch.randn((2, *shape), generator=stream).to(x)
            z = process.perturb(x, time, eps, auxiliary[:, x.shape[1] :])
            answers.append(logits(z, time.to(z)).argmax(dim=1))
        accuracies.append((torch.cat(answers) == labels).double().mean().item())
    return accuracies


def as_logged(accuracies: list[float]) -> dict[str, float]:
    """The mean over all noise levels, and each accuracy by its range of times."""
    by_range = {f"accuracy/t{i / BINS:g}-{(i + 1) / BINS:g}": a for i, a in enumerate(accuracies)}
    return {"accuracy": sum(accuracies) / BINS, **by_range}
