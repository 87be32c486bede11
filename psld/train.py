"""Train a model: EMA weights and manifest from a prepared dataset.

    python -m psld.train model=demo/psld-0.02 training.steps=100       # a model of a grid
    python -m psld.train dataset=digits process=psld process.gamma=0.02 network=demo training=demo

Several ranks: torchrun --nproc-per-node=4 -m psld.train ...
"""

import signal
from contextlib import ExitStack
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from psld.cli import CONFIGS, entry_point
from psld.datasets.store import ImageStore
from psld.errors import UserError
from psld.files import write_json
from psld.grid import expand_model
from psld.model import build_network, build_process, save_model
from psld.processes.linear import LinearProcess
from psld.provenance import device_name
from psld.randomness import Stream, stream_seed
from psld.training.batches import Batches
from psld.training.loop import train
from psld.training.ranks import Ranks, join_ranks
from psld.training.settings import ModelSettings, TrainSettings
from psld.training.state import Checkpoints, TrainingState
from psld.training.stop import stop_on
from psld.training.wandb_log import NoLog, WandbLog

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


@entry_point("train", TrainSettings, rewrite=lambda given: expand_model(given, CONFIGS))
def main(settings: TrainSettings) -> None:
    store = ImageStore.open_for(settings.data, settings.dataset)
    process = build_process(settings)
    with ExitStack() as stack:
        ranks = stack.enter_context(join_ranks(settings.device))
        state = initial_state(settings, process, ranks)
        run = Path(settings.runs) / settings.run_name(store.digest)
        if ranks.leads:
            stack.callback(run_lock(run).release)
        checkpoints = Checkpoints(run / "checkpoints", settings.training.milestone_every)
        checkpoints.restore(state, ranks.device)
        ranks.barrier()
        if state.step < settings.training.steps:
            stop = stack.enter_context(stop_on(*STOP_SIGNALS))
            batches = Batches(
                store.images("train"), settings.dataset.flip, process, settings.training, ranks
            )
            log = NoLog()
            if ranks.leads:
                config = settings.model().model_dump(mode="json")
                write_json(run / "settings.json", config)
                log = stack.enter_context(WandbLog(settings, run, process, config))
            train(state, batches, process, settings.training, ranks, checkpoints, log, stop)
        if ranks.leads:
            export(settings, state, store.digest, run, ranks)


def initial_state(settings: ModelSettings, process: LinearProcess, ranks: Ranks) -> TrainingState:
    """The state at step 0, the same on every rank."""
    torch.manual_seed(stream_seed(settings.training.seed, Stream.INITIAL_WEIGHTS))
    network = build_network(settings, process).to(ranks.device)
    return TrainingState(network, settings.training)


def run_lock(run: Path) -> FileLock:
    """The right to train in a run directory; it ends with its holder, however that ends."""
    run.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run / "lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"{run}: another training is running there; wait for it") from None
    return lock


def export(
    settings: TrainSettings,
    state: TrainingState,
    dataset_digest: str,
    run: Path,
    ranks: Ranks,
) -> None:
    """Write the model: EMA weights, then the manifest."""
    manifest = {
        "name": settings.name,
        "grid": settings.grid_name,
        "settings": settings.model().model_dump(mode="json"),
        "dataset_digest": dataset_digest,
        "step": state.step,
        "images_seen": state.step * settings.training.batch_size,
        "parameters": sum(p.numel() for p in state.network.parameters()),
        "seconds": round(state.seconds, 3),
        "device": device_name(ranks.device),
        "ranks": ranks.world,
        "run": str(run),
    }
    save_model(settings.output, state.ema.network, manifest)
    print(f"wrote {settings.output}")


if __name__ == "__main__":
    main()
