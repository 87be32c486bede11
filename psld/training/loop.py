"""The training loop, which waits for the device only to log and to save."""

import math
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from psld.diffusion.loss import LossOf
from psld.models.build import forward_flops
from psld.models.objectives import LoopSettings
from psld.models.settings import TRAIN_FACTOR
from psld.networks.forward import forward_pass
from psld.training.batches import Batch, Batches
from psld.training.files import preview_path, write_history
from psld.training.ranks import Ranks
from psld.training.state import Checkpoints, History, TrainingState
from psld.utils.device import peak_flops
from psld.utils.errors import RunError, Stopped, UserError, ignored, is_out_of_memory
from psld.utils.files import STEP, write_text
from psld.utils.progress import Progress
from psld.utils.randomness import Stream, stream_seed

STOP_EVERY = 10
"""With several ranks, the number of steps between exchanges of stop signals. An exchange takes
time, so the ranks do not exchange stop signals after every step."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
"""Signals from a scheduler, from Ctrl-C, and from Slurm before a time limit or a preemption."""

MOST_ENTRIES = 20_000
"""The largest number of entries that `log_every` adds to a history. Reading a million entries takes
25 seconds and 2 GB of memory."""

LIVE_SECONDS = 2.0
"""The shortest time, in seconds, between two writes of the history without a checkpoint."""

SHOWN = {
    "loss": "loss {:.4f}",
    "images_per_second": "{:.0f} images/s",
    "peak_memory_gib": "{:.1f} GiB",
    "mfu": "MFU {:.1%}",
}
"""The format of each logged value that is printed at a checkpoint."""


@dataclass
class Log:
    """Writes the history and the previews of a training, on rank 0."""

    run: Path
    """The run directory."""
    preview: Callable[[nn.Module, Path], dict[str, float]]
    """Called with the averaged network and the path of a picture. Returns numbers to log, and may
    write the picture."""
    live: list[Callable[[History], None]] = field(default_factory=list)
    """Called with the history after each write."""
    due: float = 0.0
    """Monotonic time after which the history may be written without a checkpoint."""

    def write_step(self, step: int) -> None:
        """Write the step of the newest checkpoint. A restarted training resumes at this step."""
        write_text(self.run / STEP, f"{step}\n")

    def save(self, history: History, has_checkpoint: bool) -> None:
        """Write the history if there is a new checkpoint or the last write is long enough ago."""
        begun = time.monotonic()
        if begun < self.due and not has_checkpoint:
            return
        write_history(self.run, history)
        for log in self.live:
            log(history)
        took = time.monotonic() - begun
        # With the factor 100, writing takes at most 1 % of the time.
        self.due = begun + max(LIVE_SECONDS, 100 * took)


@dataclass(frozen=True)
class Due:
    """The actions that are due after a step."""

    entry: bool
    """True if an entry is added to the history. Each preview and each checkpoint adds an entry."""
    preview: bool
    checkpoint: bool
    stop: int
    """Number of the signal that asked any rank to stop; 0 without a signal."""

    @classmethod
    def after(cls, step: int, settings: LoopSettings, ranks: Ranks, stop: "StopRequest") -> "Due":
        last = step == settings.steps
        asks = ranks.world == 1 or step % STOP_EVERY == 0
        stopping = ranks.largest(stop.number) if asks and not last else 0
        checkpoint = last or bool(stopping) or step % settings.checkpoint_every == 0
        preview = bool(settings.preview_every) and step % cast(int, settings.preview_every) == 0
        log_every = max(settings.log_every, math.ceil(settings.steps / MOST_ENTRIES))
        entry = checkpoint or preview or step % log_every == 0
        return cls(entry, preview, checkpoint, stopping)


Hook = Callable[[TrainingState, Due], None]
"""Called on rank 0 after each step that adds an entry to the history."""


@contextmanager
def hooks_of(checkpoints: Checkpoints, log: Log) -> Iterator[list[Hook]]:
    """Yield the hooks that write previews, checkpoints and the history, in this order.

    A thread writes each checkpoint from a copy of the state while the training continues. If the
    thread fails, its error is raised at the next entry of the history. At the last step and at
    every other exit, the context manager waits until the checkpoint is written.
    """
    writing = deque[Future[None]]()

    def write_checkpoint(content: dict[str, Any]) -> None:
        checkpoints.write(content)
        log.write_step(content["step"])

    def preview(state: TrainingState, due: Due) -> None:
        if due.preview:
            numbers = log.preview(state.average.network, preview_path(log.run, state.step))
            state.history[-1] = numbers | state.history[-1]  # Values of the loop take precedence.

    def save(state: TrainingState, due: Due) -> None:
        ends = bool(due.stop) or state.step == state.settings.steps
        if writing and (due.checkpoint or writing[0].done()):
            writing.popleft().result()
        if due.checkpoint:
            writing.append(writer.submit(write_checkpoint, checkpoints.copy(state)))
        if ends:
            writing.popleft().result()

    def write(state: TrainingState, due: Due) -> None:
        log.save(state.history, due.checkpoint)

    with ThreadPoolExecutor(1, "checkpoint") as writer:
        yield [preview, save, write]


def train(
    state: TrainingState,
    batches: Batches,
    loss_of: LossOf,
    ranks: Ranks,
    hooks: Sequence[Hook],
    stop: "StopRequest",
) -> None:
    """Train `state` from its step up to `settings.steps`.

    A training that is stopped and resumed with the same number of ranks ends with the same weights,
    because batches and noise depend on (seed, step), and dropout depends on (seed, step, rank). The
    weights are bit-identical on CPUs, and on GPUs if the convolutions are deterministic.

    Raises:
        RunError: the loss or the gradient is not finite. No checkpoint is written after this step.
        Stopped: a signal asked a rank to stop. A checkpoint is written first.
    """
    settings = state.settings
    network, changing = parallel_network(state, batches, loss_of, ranks)
    peak = peak_flops(ranks.device, settings.precision)
    whole = peak and peak * ranks.world
    meter = Meter(ranks, whole and TRAIN_FACTOR * forward_flops(state.average.network) / whole)
    progress = Progress("training", "step", settings.steps, state.step, silent=not ranks.leads)
    earlier_seconds, started, first = state.seconds, time.monotonic(), state.step
    while state.step < settings.steps:
        step = state.step
        torch.manual_seed(stream_seed(settings.seed, Stream.DROPOUT, step, ranks.rank))
        loss, norm = optimize(state, network, loss_of, batches.draw(step), settings)
        ranks.share(changing)
        if step == first:
            check_first_step(state, loss, norm, ranks)
        meter.add(step, loss, norm)
        progress.update()
        due = Due.after(state.step, settings, ranks, stop)
        if not due.entry:
            continue
        ranks.share(state.network.buffers())
        values = meter.read(images_per_step=settings.batch_size)
        progress.note = f"loss {values['loss']:.4f}"
        if due.checkpoint and not due.stop and progress.in_lines:
            shown = [text.format(values[key]) for key, text in SHOWN.items() if key in values]
            print(f"step {state.step}/{settings.steps}: {', '.join(shown)}", flush=True)
        rate = learning_rate(settings, step)
        entry = {"step": state.step, "time": time.time(), **values, "learning_rate": rate}
        state.history.append(entry)
        state.seconds = earlier_seconds + time.monotonic() - started
        for hook in hooks if ranks.leads else ():
            hook(state, due)
        if due.preview or due.checkpoint:
            ranks.barrier()  # Wait for rank 0 here: in the next step, nccl limits the waiting time.
        meter.start_clock()  # Do not count saving and previews as training.
        if due.stop:
            progress.close()
            raise Stopped(due.stop, state.step)
    progress.close()


def parallel_network(
    state: TrainingState, batches: Batches, loss_of: LossOf, ranks: Ranks
) -> tuple[nn.Module, list[Tensor]]:
    """Return the network for all ranks, in the precision of the settings, compiled if requested.

    Also return the buffers that change in a trial pass. All ranks get these buffers from rank 0
    after each step, and all other buffers at each entry of the history. With `micro_batch=auto`,
    this function finds the largest micro-batch that fits into memory.
    """
    settings = state.settings
    called = forward_pass(state.network, settings.precision, compile=settings.compile)
    graphs = settings.compile == "reduce-overhead"
    if settings.micro_batch == "auto" and not state.micro_batch:  # A checkpoint stores it.
        batch = batches.draw(state.step)
        # Try without CUDA graphs: an out-of-memory error in their recording would end the training.
        tried = forward_pass(state.network, settings.precision) if graphs else called
        state.micro_batch = largest_micro_batch(tried, loss_of, batch, ranks)
        if ranks.device.type == "cuda":
            # Do not count the memory of the trials.
            torch.cuda.reset_peak_memory_stats(ranks.device)
    ranks.limit_exchanges()
    network = ranks.parallel(called, state.has_unused_weights)
    state.network.train()
    changing: list[Tensor] = []
    if ranks.world > 1:
        # DistributedDataParallel reorders the gradients after its first backward pass, and the last
        # bit of their sum over the ranks depends on the order. Make one pass whose result is not
        # used. All steps then have the same order, and a resumed training is bit-identical to an
        # uninterrupted training.
        buffers = [*state.network.buffers()]
        before = [buffer.clone() for buffer in buffers]
        with undone(state.network):
            batch = batches.draw(state.step)
            accumulate_gradient(network, loss_of, batch, state.micro_batch, graphs)
            differ = [not torch.equal(a, b) for a, b in zip(before, buffers, strict=True)]
        if buffers:
            # The fraction of ranks on which each buffer changes:
            shares = ranks.mean(torch.tensor(differ, dtype=torch.float32))
            changing = [buffers[i] for i in shares.nonzero().flatten().tolist()]
    return network, changing


def check_first_step(state: TrainingState, loss: Tensor, norm: Tensor, ranks: Ranks) -> None:
    """After the first step of a run, detect errors that would otherwise end the training later.

    Raises RunError if the loss or the gradient of step 1 is not finite, and the errors of
    `TrainingState.check` if a checkpoint cannot hold the state of custom parts.
    """
    if state.step == 1 and not bool(ranks.mean(torch.stack([loss, norm])).isfinite().all()):
        raise RunError(
            "the loss is NaN or infinite at the first step, before any update of the "
            "weights: look at the objective, the network and the data (psld check)"
        )
    state.check()


def optimize(
    state: TrainingState,
    network: nn.Module,
    loss_of: LossOf,
    batch: Batch,
    settings: LoopSettings,
) -> tuple[Tensor, Tensor]:
    """Take one optimizer step, and update the averages.

    Args:
        network: `state.network`, or its compiled or parallel form.

    Returns the loss before the step and the gradient norm before clipping, both on the device.
    """
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(settings, state.step)
    graphs = settings.compile == "reduce-overhead"
    loss = accumulate_gradient(network, loss_of, batch, state.micro_batch, graphs)
    trained = [each for group in state.optimizer.param_groups for each in group["params"]]
    norm = nn.utils.clip_grad_norm_(trained, settings.grad_clip)
    state.optimizer.step()
    # Do not call the optimizer's zero_grad, because the optimizer may not hold all weights.
    state.network.zero_grad(set_to_none=True)
    with torch.no_grad():
        for average in state.averages.values():
            average.update(state.network)
    state.step += 1
    return loss, norm


def learning_rate(settings: LoopSettings, step: int) -> float:
    """Return `settings.learning_rate` times the linear warm-up times the factor of the schedule.

    Raises UserError if the factor is negative or not finite.
    """
    schedule, key = settings.schedule, "training.schedule"
    factor = float(schedule.factor(step, settings.steps))
    if not 0 <= factor < math.inf:
        wrong = f"the factor of step {step} is {factor:g}"
        raise UserError(f"{key}: {schedule.kind}: {wrong}; it must be finite and not negative")
    rate = settings.learning_rate * factor
    return rate if step >= settings.warmup_steps else rate * step / settings.warmup_steps


def check_schedule(settings: LoopSettings) -> None:
    """Check `learning_rate` at up to 1,001 steps, including the last step.

    Raises UserError if the factor of the schedule is negative or not finite.
    """
    steps = settings.steps
    for step in sorted({*(steps * i // 1000 for i in range(1000)), steps - 1}):
        learning_rate(settings, step)


# -- micro-batches: accumulate the gradient of a batch in passes that fit into memory -------------


def accumulate_gradient(
    network: nn.Module,
    loss_of: LossOf,
    batch: Batch,
    micro_batch: int | None,
    graphs: bool = False,
) -> Tensor:
    """Accumulate the gradient of the mean loss of a batch over its micro-batches; return the loss.

    Ranks exchange gradients once, in the backward pass of the last micro-batch.

    `graphs`: True if the network is compiled to CUDA graphs.
    """
    total = torch.zeros((), device=batch.x0.device)
    parts = list(batch.split(micro_batch or len(batch.x0)))
    parallel = network if isinstance(network, DistributedDataParallel) else None
    for part in parts:
        if graphs:
            torch.compiler.cudagraph_mark_step_begin()
        with parallel.no_sync() if parallel and part is not parts[-1] else nullcontext():
            share = loss_of(network, part) * (len(part.x0) / len(batch.x0))
            share.backward()
        total += share.detach()
        if graphs and part is parts[0] and len(parts) > 1:
            # Copy these gradients, because the next run of the graph overwrites them.
            for parameter in network.parameters():
                parameter.grad = None if parameter.grad is None else parameter.grad.clone()
    return total


def largest_micro_batch(network: nn.Module, loss_of: LossOf, batch: Batch, ranks: Ranks) -> int:
    """Return the largest number of images whose gradient fits into the memory of every rank.

    The first trial uses all images of the rank's batch. After each out-of-memory error on any rank,
    the next trial uses the largest divisor of the batch size that is at most half as large.

    Args:
        network: the network without the exchange of gradients. In an exchange, the other ranks
            would wait for a rank that has run out of memory.
        batch: this rank's part of a batch.

    Raises RunError if a single image does not fit.
    """
    images = len(batch.x0)
    while ranks.largest(int(not _fits(network, loss_of, batch, images, 2 + (ranks.world > 1)))):
        torch.cuda.empty_cache()
        if images == 1:
            raise RunError("out of memory with one image at once; use a larger GPU")
        smaller = next(size for size in range(images // 2, 0, -1) if len(batch.x0) % size == 0)
        if ranks.leads:
            print(f"out of memory with {images} images at once; trying {smaller}", flush=True)
        images = smaller
    return images


def _fits(network: nn.Module, loss_of: LossOf, batch: Batch, images: int, later: int) -> bool:
    """Check if the gradient of `images` images and the state of later steps fit into memory.

    `later`: the size of this state relative to the size of the parameters, which is 2 for the
    moments of the optimizer, plus 1 for the exchange between ranks.
    """
    try:
        with undone(network):
            held = [torch.empty_like(each) for each in network.parameters() for _ in range(later)]
            # Try two micro-batches: in the second pass, memory also holds the gradients of the
            # first pass.
            accumulate_gradient(network, loss_of, next(batch.split(2 * images)), images)
            del held
        return True
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False


@contextmanager
def undone(network: nn.Module) -> Iterator[None]:
    """Reset the gradients and restore the buffers of a network at the end of the block."""
    before = [buffer.clone() for buffer in network.buffers()]
    try:
        yield
    finally:
        network.zero_grad(set_to_none=True)
        for buffer, value in zip(network.buffers(), before, strict=True):
            buffer.copy_(value)


# -- measurements and signals --------------------------------------------------------------------


class Meter:
    """Averages the loss and the gradient norm on the device, and records the first NaN."""

    def __init__(self, ranks: Ranks, mfu_of_one: float | None = None) -> None:
        """`mfu_of_one`: the model FLOPs utilization (MFU) at one image per second, if known."""
        self.ranks = ranks
        self.mfu_of_one = mfu_of_one
        self.broken = torch.tensor(-1, device=ranks.device)
        """The first step whose loss or gradient is not finite; −1 if there is none."""
        self.sums, self.steps = torch.zeros(2, device=ranks.device), 0
        self.start_clock()

    def start_clock(self) -> None:
        self.since = time.monotonic()

    def add(self, step: int, loss: Tensor, norm: Tensor) -> None:
        self.sums += torch.stack([loss, norm])
        self.steps += 1
        first = (self.broken < 0) & ~torch.isfinite(loss + norm)
        self.broken.masked_fill_(first, step)

    def read(self, images_per_step: int) -> dict[str, float]:
        """Return the averages since the last call. This waits for the device.

        Raises RunError, naming the first step whose loss or gradient was not finite.
        """
        loss, norm = (self.ranks.mean(self.sums) / self.steps).tolist()
        # Each rank computes only the losses of its own images, so a NaN may occur on any rank.
        if (broken := self.ranks.largest(int(self.broken))) >= 0:
            raise RunError(
                f"NaN or infinity in the loss at step {broken}; checkpoints before it, "
                "if any, are kept. Lower training.learning_rate or training.grad_clip, or check "
                "the data"
            )
        speed = images_per_step * self.steps / (time.monotonic() - self.since)
        self.sums, self.steps = torch.zeros_like(self.sums), 0
        self.start_clock()
        values = {"loss": loss, "grad_norm": norm, "images_per_second": speed}
        if self.ranks.device.type == "cuda":
            values["peak_memory_gib"] = torch.cuda.max_memory_allocated(self.ranks.device) / 2**30
        if self.mfu_of_one:
            values["mfu"] = speed * self.mfu_of_one
        return values


class StopRequest:
    """Within a `with` block, records stop signals as a number that the loop reads.

    A second Ctrl-C has its usual effect. All other repeated signals are ignored, because Slurm
    repeats its signals (SIGTERM before and after a grace period, then SIGKILL). If a signal
    arrived, SIGTERM is also ignored after the block, because the stopped training is about to exit.
    SIGUSR2, the warning of Slurm, is ignored after a finished training, because then rank 0 writes
    the model and no restart is needed.
    """

    def __init__(self) -> None:
        self.number = 0
        """Number of the last signal; 0 if no signal arrived."""
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        self.previous = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        for number in STOP_SIGNALS:
            signal.signal(number, self._remember)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self.previous.items():
            is_repeat = self.number and number == signal.SIGTERM
            is_late = kind is None and number == signal.SIGUSR2
            signal.signal(number, ignored if is_repeat or is_late else handler)

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        self.number = number
        if number == signal.SIGINT:
            signal.signal(number, self.previous[number])
