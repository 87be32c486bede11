"""The training loop. Nothing in it waits for the device, but for the moments that log or save."""

import time
from contextlib import nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from psld.diffusion.loss import Objective
from psld.networks.forward import forward_pass
from psld.training.batches import Batch, Batches
from psld.training.ranks import Ranks
from psld.training.settings import LoopSettings
from psld.training.state import Checkpoints, History, TrainingState
from psld.training.stop import Stopped, StopRequest
from psld.utils.errors import RunError
from psld.utils.randomness import Stream, stream_seed

ASK_EVERY = 10
"""Steps between the moments at which several ranks agree whether to stop."""


class Log(Protocol):
    """Where a training reports to."""

    def saved(self, history: History) -> None:
        """A checkpoint holds this history: no later life of the training repeats its steps."""

    def preview(self, step: int, network: nn.Module) -> None:
        """Look at the averaged network."""


class NoLog:
    """The log of a rank that does not lead, and of a training without wandb."""

    def saved(self, history: History) -> None:
        """Report nothing."""

    def preview(self, step: int, network: nn.Module) -> None:
        """Look at nothing."""


def train(
    state: TrainingState,
    batches: Batches,
    loss_of: Objective,
    settings: LoopSettings,
    ranks: Ranks,
    checkpoints: Checkpoints,
    log: Log,
    stop: StopRequest,
) -> None:
    """Train `state` from its step up to `settings.steps`, by the loss that `loss_of` gives.

    A training that is stopped and resumed ends with the same weights on the same number of ranks:
    batches and noise come from (seed, step) and dropout from (seed, step, rank). On CPUs they are
    equal to the bit; on GPUs as far as the convolutions are deterministic.

    Raises:
        RunError: the gradient is not finite; no checkpoint is written after that step.
        Stopped: a signal asked any rank to stop; a checkpoint is written first.
    """
    called = forward_pass(state.network, settings.precision, compile=settings.compile)
    network = ranks.parallel(called)
    meter = Meter(ranks)
    progress = tqdm(
        total=settings.steps,
        initial=state.step,
        desc="training",
        unit="step",
        disable=None if ranks.leads else True,
    )
    state.network.train()
    resumed_seconds, started = state.seconds, time.monotonic()

    def save() -> None:
        state.seconds = resumed_seconds + time.monotonic() - started
        if ranks.leads:
            checkpoints.save(state)
            log.saved(state.history)
        ranks.barrier()

    if ranks.world > 1:
        settle_buckets(state, network, loss_of, batches.draw(state.step), settings)
    while state.step < settings.steps:
        step = state.step
        torch.manual_seed(stream_seed(settings.seed, Stream.DROPOUT, step, ranks.rank))
        loss, norm = optimize(state, network, loss_of, batches.draw(step), settings)
        meter.add(step, loss, norm)
        progress.update()

        last = state.step == settings.steps
        saving = last or state.step % settings.checkpoint_every == 0
        logging = saving or state.step % settings.log_every == 0
        # Ranks must stop at the same step, and asking them all is worth it only now and then.
        asking = ranks.world == 1 or state.step % ASK_EVERY == 0
        stopping = ranks.largest(stop.number) if asking and not last else 0
        if logging or stopping:
            values = meter.read(images_per_step=settings.batch_size)
            progress.set_postfix(loss=f"{values['loss']:.4f}")
            if saving and ranks.leads and progress.disable:
                print(f"step {state.step}/{settings.steps}: {_summary(values)}", flush=True)
            entry = {"step": state.step, **values, "learning_rate": learning_rate(settings, step)}
            state.history.append(entry)
        if settings.preview_every and state.step % settings.preview_every == 0 and ranks.leads:
            log.preview(state.step, state.ema.network)
        if saving or stopping:
            save()
        if logging:
            meter.start_clock()  # neither saving nor previewing is training
        if stopping:
            progress.close()
            raise Stopped(stopping, state.step)
    progress.close()


def optimize(
    state: TrainingState,
    network: nn.Module,
    loss_of: Objective,
    batch: Batch,
    settings: LoopSettings,
) -> tuple[Tensor, Tensor]:
    """One step on one batch. `network` is `state.network` as it is called: parallel, compiled.

    Returns:
        The loss before the step and the norm of its gradient before clipping, on the device.
    """
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(settings, state.step)
    loss = accumulate_gradient(network, loss_of, batch, settings.micro_batch)
    norm = nn.utils.clip_grad_norm_(state.network.parameters(), settings.grad_clip)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.ema.update(state.network)
    state.step += 1
    return loss, norm


def settle_buckets(
    state: TrainingState,
    network: nn.Module,
    loss_of: Objective,
    batch: Batch,
    settings: LoopSettings,
) -> None:
    """A pass whose gradient is thrown away.

    After its first pass DistributedDataParallel sorts the gradients anew, and the ranks' sum of
    each depends, in its last bit, on where it lies. This way it lies there in every step of every
    life of a training, and a resumed one is bit for bit the uninterrupted one.
    """
    accumulate_gradient(network, loss_of, batch, settings.micro_batch)
    state.optimizer.zero_grad(set_to_none=True)


def accumulate_gradient(
    network: nn.Module, loss_of: Objective, batch: Batch, micro_batch: int | None
) -> Tensor:
    """Add the gradient of the batch's mean loss, one micro-batch after the other; return the loss.

    Ranks exchange gradients once, with the last micro-batch.
    """
    parts = list(batch.split(micro_batch or len(batch.x0)))
    total = torch.zeros((), device=batch.x0.device)
    for index, part in enumerate(parts):
        exchanges = index == len(parts) - 1
        waits = isinstance(network, DistributedDataParallel) and not exchanges
        with network.no_sync() if waits else nullcontext():
            loss = loss_of(network, part)
            share = loss * (len(part.x0) / len(batch.x0))
            share.backward()
        total += share.detach()
    return total


def learning_rate(settings: LoopSettings, step: int) -> float:
    """Linear from 0 at step 0 to `learning_rate` at `warmup_steps`, then constant."""
    if step >= settings.warmup_steps:
        return settings.learning_rate
    return settings.learning_rate * step / settings.warmup_steps


class Meter:
    """Averages loss and gradient norm on the device and notes the first step that is not finite."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.broken = torch.tensor(-1, device=ranks.device)
        """The first step with a non-finite gradient, −1 while there is none."""
        self._restart()

    def _restart(self) -> None:
        self.sums = torch.zeros(2, device=self.ranks.device)
        self.steps = 0
        self.start_clock()

    def start_clock(self) -> None:
        """Count the time of the next steps from now."""
        self.since = time.monotonic()

    def add(self, step: int, loss: Tensor, norm: Tensor) -> None:
        self.sums += torch.stack([loss, norm])
        self.steps += 1
        # Gradients are averaged over ranks, so all ranks note the same step.
        fresh = (self.broken < 0) & ~torch.isfinite(norm)
        self.broken = torch.where(fresh, step, self.broken)

    def read(self, images_per_step: int) -> dict[str, float]:
        """The averages since the last reading. Waits for the device.

        Raises RunError naming the first step whose gradient was not finite.
        """
        loss, norm = (self.ranks.mean(self.sums) / self.steps).tolist()
        broken = int(self.broken)
        if broken >= 0:
            raise RunError(
                f"NaN or infinity in the loss at step {broken}; the last checkpoint before it is "
                "kept. Lower training.learning_rate or training.grad_clip, or check the data"
            )
        seconds = time.monotonic() - self.since
        speed = images_per_step * self.steps / seconds
        self._restart()
        return {"loss": loss, "grad_norm": norm, "images_per_second": speed}


def _summary(values: dict[str, float]) -> str:
    """What a log file, where the progress bar is silent, says now and then."""
    return f"loss {values['loss']:.4f}, {values['images_per_second']:.0f} images/s"
