"""The training loop: gradients, learning rate, times of logs and checkpoints, and stopping."""

import itertools
import math
import os
import signal
import time
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from psld.diffusion.loss import EpsilonLoss
from psld.models.build import forward_flops
from psld.training import loop
from psld.training.files import TrainingHistory
from psld.training.loop import (
    STOP_SIGNALS,
    Log,
    Meter,
    StopRequest,
    accumulate_gradient,
    hooks_of,
    learning_rate,
    train,
)
from psld.training.ranks import Ranks
from psld.training.state import Checkpoints
from psld.utils.errors import RunError, Stopped
from tests.diffusion.processes import phase_space
from tests.training.small import (
    ONE_RANK,
    Recorder,
    batches_of,
    check_equal,
    recipe,
    tiny_network,
    tiny_state,
)

PROCESS = phase_space(0.02)


def run(
    folder, settings, dropout=0.1, stop=None, state=None, batches=None, ranks=ONE_RANK, log=None
):
    """Train from the newest checkpoint in `folder`; return state, checkpoints and log."""
    state = state or tiny_state(PROCESS, settings, dropout)
    checkpoints = Checkpoints(folder)
    checkpoints.restore(state, checkpoints.newest())
    log = log or Recorder()
    batches = batches or batches_of(PROCESS, settings)
    stop = StopRequest() if stop is None else stop
    with hooks_of(checkpoints, log) as hooks:
        train(state, batches, EpsilonLoss(PROCESS), ranks, hooks, stop)
    return state, checkpoints, log


class TwoRanks(Ranks):
    """Rank 0 of two ranks; the loss of rank 1 is three times as large."""

    def parallel(self, network, unused=False):
        return network

    def mean(self, values):
        return 2 * values

    def largest(self, number):
        return number

    def share(self, tensors):
        """The other rank has the same numbers."""


# --- one step -----------------------------------------------------------------------------------


def in_float64(batch):
    names = ("x0", "eps", "auxiliary_eps")
    return replace(batch, **{name: getattr(batch, name).double() for name in names})


def test_micro_batches_have_the_gradient_of_the_whole_batch():
    # In float64, rounding due to the order of summation is negligible.
    process = phase_space(0.0, matching="dsm")
    batch = in_float64(batches_of(process, recipe(batch_size=12)).draw(0))
    loss_of = EpsilonLoss(process, "nll")
    gradients, losses = [], []
    for micro_batch in (None, 4, 5):
        network = tiny_network(process).double()
        losses.append(float(accumulate_gradient(network, loss_of, batch, micro_batch)))
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    scale = gradients[0].abs().max()
    assert scale > 0
    for loss, gradient in zip(losses[1:], gradients[1:], strict=True):
        assert loss == pytest.approx(losses[0], rel=1e-6)
        torch.testing.assert_close(gradient / scale, gradients[0] / scale, atol=1e-9, rtol=0)


def test_the_learning_rate_grows_linearly_and_stays():
    settings = recipe(learning_rate=0.5, warmup_steps=10)
    rates = [learning_rate(settings, step) for step in range(14)]
    assert rates[:11] == pytest.approx([0.05 * step for step in range(11)])
    assert rates[10:] == [0.5] * 4
    assert learning_rate(recipe(learning_rate=0.5, warmup_steps=0), 0) == 0.5


def test_rates_and_gradients_are_those_of_the_step(tmp_path):
    """The reported norm is measured before clipping; the optimizer gets the clipped gradient."""
    rates, norms = [], []

    def look(optimizer, *_):
        rates.append(optimizer.param_groups[0]["lr"])
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(float(torch.cat([g.flatten() for g in gradients]).norm()))

    settings = recipe(steps=4, warmup_steps=3, grad_clip=1e-3, log_every=1)
    state = tiny_state(PROCESS, settings)
    state.optimizer.register_step_pre_hook(look)
    _, _, log = run(tmp_path, settings, state=state)
    assert rates == pytest.approx([0, 1e-3 / 3, 2e-3 / 3, 1e-3])
    assert [values["learning_rate"] for values in log.logged.values()] == rates
    assert norms == pytest.approx([1e-3] * 4, rel=1e-3)
    assert min(values["grad_norm"] for values in log.logged.values()) > 0.01


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_computes_in_its_precision_and_keeps_weights_in_fp32(tmp_path, precision):
    settings, computed = recipe(steps=1, precision=precision), set()
    state = tiny_state(PROCESS, settings)
    state.network.register_forward_hook(lambda *call: computed.add(call[2].dtype))
    run(tmp_path, settings, state=state)
    assert computed == {{"fp32": torch.float32, "bf16": torch.bfloat16}[precision]}
    assert {p.dtype for p in state.network.parameters()} == {torch.float32}


def test_a_training_compiles_its_network_if_it_is_asked_to(tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda network, **_: compiled.append(network) or network)
    for compile in (False, True):
        state, *_ = run(tmp_path / str(compile), recipe(steps=1, compile=compile))
    assert compiled == [state.network]


class Graphed(nn.Module):
    """A network whose gradients are overwritten by its next run, as with a CUDA graph."""

    def __init__(self, network, runs):
        super().__init__()
        self.network, self.runs, self.returned, self.is_first = network, runs, [], False
        for parameter in network.parameters():
            parameter.register_post_accumulate_grad_hook(self.record)

    def record(self, parameter):
        if self.is_first:
            self.returned.append(parameter.grad)

    def forward(self, *inputs):
        self.runs.append(len(inputs[0]))
        for gradient in self.returned:
            gradient.fill_(math.nan)
        self.returned.clear()
        self.is_first = next(self.network.parameters()).grad is None
        return self.network(*inputs)


def test_cuda_graphs_do_not_overwrite_the_gradients_of_micro_batches(tmp_path, monkeypatch):
    """Each micro-batch marks the start of a graph step; the trials of `auto` record no graph."""
    runs, marks, weights = [], [], []

    def compiled(network, dynamic, options):
        assert options["triton.cudagraphs"]
        return Graphed(network, runs)

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(
        torch.compiler, "cudagraph_mark_step_begin", lambda: marks.append(len(runs))
    )
    for compile in (False, "reduce-overhead"):
        settings = recipe(steps=2, compile=compile, micro_batch=4)
        weights.append(parameters_of(run(tmp_path / str(compile), settings)[0].network))
    assert torch.equal(*weights)
    assert runs == [4] * 6
    assert marks == [*range(6)]
    run(tmp_path / "auto", recipe(steps=1, compile="reduce-overhead", micro_batch="auto"))
    assert runs == [4] * 6 + [12]


# --- many steps ---------------------------------------------------------------------------------


def test_the_times_of_logs_and_checkpoints(tmp_path):
    settings = recipe(steps=11, checkpoint_every=5, log_every=3, preview_every=4)
    state, checkpoints, log = run(tmp_path, settings)
    assert state.step == 11
    assert checkpoints.steps() == [10, 11]
    assert sorted(log.logged) == [3, 4, 5, 6, 8, 9, 10, 11]
    assert log.previews == [4, 8]
    names = {"step", "time", "loss", "grad_norm", "learning_rate", "images_per_second"}
    for step, values in log.logged.items():
        assert values.keys() - names == ({"accuracy"} if step in log.previews else set())
        assert names <= values.keys()
        assert all(math.isfinite(value) and value > 0 for value in values.values())


def test_a_history_that_is_logged_each_step_stays_short(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "MOST_ENTRIES", 4)
    logged = run(tmp_path, recipe(steps=10, log_every=1))[2].logged
    assert [*logged] == [3, 6, 9, 10]


def test_the_average_is_updated_with_the_weights_after_each_step(tmp_path):
    """θ̄ ← d θ̄ + (1 − d) θ once per step; previews and exports use the averaged network."""
    settings = recipe(steps=5, ema_decay=0.5, preview_every=5)
    state, seen = tiny_state(PROCESS, settings), []
    expected = parameters_of(state.network)

    def average(*_):
        expected.lerp_(parameters_of(state.network), 0.5)

    state.optimizer.register_step_post_hook(average)
    log = Recorder()
    log.preview = lambda network, picture: seen.append(parameters_of(network)) or {}
    run(tmp_path, settings, state=state, log=log)
    torch.testing.assert_close(parameters_of(state.average.network), expected, rtol=0, atol=1e-6)
    assert torch.equal(seen[0], parameters_of(state.average.network))
    assert (expected - parameters_of(state.network)).abs().max() > 1e-4


def parameters_of(network) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_other_ranks_wait_while_rank_0_previews_and_saves(tmp_path):
    """The other ranks wait before the next step, because exchanges in a step have a time limit."""
    events: list[str] = []

    class Watched(Ranks):
        def barrier(self) -> None:
            events.append("all wait")

    class Slow(Recorder):
        def preview(self, network, picture):
            events.append(f"preview {picture.stem}")
            return {}

        def save(self, history, _has_checkpoint):
            events.append(f"saved {len(history)}")

    settings = recipe(steps=6, checkpoint_every=6, log_every=6, preview_every=4)
    run(tmp_path, settings, ranks=Watched(0, 1, ONE_RANK.device), log=Slow())
    assert events == ["all wait", "preview 4", "saved 1", "all wait", "saved 2", "all wait"]


def test_memory_and_utilization_of_gpus_are_logged_and_the_mean_of_the_ranks(
    tmp_path, monkeypatch, capsys
):
    """The MFU is the FLOPs of the steps divided by the peak FLOPs of the GPUs."""
    monkeypatch.setattr(loop, "peak_flops", lambda device, precision: 1e12)
    settings, losses = recipe(steps=4, log_every=2, checkpoint_every=2), []
    for ranks in (ONE_RANK, TwoRanks(0, 2, ONE_RANK.device)):
        state, _, log = run(tmp_path / f"{ranks.world}", settings, 0.0, ranks=ranks)
        losses.append([values["loss"] for values in log.logged.values()])
        for values in log.logged.values():
            flops = values["images_per_second"] * 3 * forward_flops(state.network)
            assert values["mfu"] == pytest.approx(flops / (ranks.world * 1e12))
    assert losses[1] == pytest.approx([2 * loss for loss in losses[0]])
    assert capsys.readouterr().out.count(" images/s, MFU ") == 4
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 << 29)
    meter = Meter(ONE_RANK)
    meter.ranks = replace(ONE_RANK, device=torch.device("cuda"))
    meter.add(0, torch.tensor(1.0), torch.tensor(1.0))
    values = meter.read(images_per_step=1)
    assert values["peak_memory_gib"] == 1.5


def test_the_logged_loss_is_the_mean_since_the_last_entry(tmp_path):
    each = run(tmp_path / "each", recipe(steps=6, log_every=1))[2].logged
    some = run(tmp_path / "some", recipe(steps=6, log_every=3))[2].logged
    for name in ("loss", "grad_norm"):
        for last in (3, 6):
            mean = sum(each[step][name] for step in range(last - 2, last + 1)) / 3
            assert some[last][name] == pytest.approx(mean, rel=1e-6)


class Clock:
    """A clock that advances only by the durations that a test sets."""

    def __init__(self, monkeypatch) -> None:
        self.now = 1000.0
        clock = SimpleNamespace(monotonic=lambda: self.now, time=time.time)
        monkeypatch.setattr(loop, "time", clock)

    def takes(self, seconds: float, function):
        def timed(*given):
            self.now += seconds
            return function(*given)

        return timed


def test_previews_and_checkpoints_are_in_the_time_but_not_in_the_speed(tmp_path, monkeypatch):
    """The time includes the time before a restart. A step takes 1 second; a preview or a write
    takes 100 seconds."""
    clock, changes = Clock(monkeypatch), {"log_every": 2, "micro_batch": 4, "checkpoint_every": 4}
    monkeypatch.setattr(Recorder, "preview", clock.takes(100, lambda *_: {}))
    monkeypatch.setattr(Recorder, "save", clock.takes(100, Recorder.save))
    for steps, seconds in ((6, 406), (9, 509)):
        settings = recipe(steps=steps, preview_every=5, **changes)
        batches = batches_of(PROCESS, settings)
        batches.draw = clock.takes(1, batches.draw)
        state, _, log = run(tmp_path, settings, batches=batches)
        assert {values["images_per_second"] for values in log.logged.values()} == {12}
        assert state.seconds == seconds, "the last checkpoint is written at the end of this time"


def test_the_history_is_live_in_a_hundredth_of_the_time_and_checkpoints_are_progress(
    tmp_path, monkeypatch
):
    """The history is written before the live function shows it. At step 3, the live function takes
    half a second; at other steps, it takes no time."""
    clock, shown = Clock(monkeypatch), []

    def live(_) -> None:
        shown.append(TrainingHistory.read(tmp_path / "history.json").entries[-1].step)
        clock.now += 0.5 * (shown[-1] == 3)

    log = Log(tmp_path, preview=lambda *_: {}, live=[live])
    for step, at in enumerate((0, 1.9, 2, 2.1, 51, 53)):
        clock.now = 1000 + at
        log.save([{"step": step, "time": 1.0, "loss": 0.5}], step == 3)
    assert shown == [0, 2, 3, 5]


class StopAt(StopRequest):
    """A stop request with a signal that arrives during a given step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.left = step

    @property
    def number(self) -> int:
        self.left -= 1
        return signal.SIGUSR2 if self.left == 0 else 0

    @number.setter
    def number(self, number: int) -> None:
        pass


def test_a_stopped_training_resumes_bit_exactly(tmp_path):
    """The training uses bf16 and dropout. It stops at steps that are not multiples of the intervals
    of checkpoints and logs."""
    settings = recipe(steps=8, checkpoint_every=5, log_every=4, precision="bf16", micro_batch=6)
    whole, *_ = run(tmp_path / "whole", settings)
    for life, stopped_at in ((3, 3), (4, 7)):
        with pytest.raises(Stopped, match=f"stopped by SIGUSR2; step {stopped_at} is saved"):
            run(tmp_path / "parts", settings, stop=StopAt(life))
        assert Checkpoints(tmp_path / "parts").steps()[-1] == stopped_at
    parts, _, log = run(tmp_path / "parts", settings)
    check_equal(parts.state_dict(), whole.state_dict())
    assert parts.seconds > 0
    assert sorted(log.logged) == [3, 4, 5, 7, 8], "what earlier lives logged, too"


def test_a_signal_in_the_last_step_changes_nothing(tmp_path):
    """The training is complete, so it does not count as stopped."""
    assert run(tmp_path, recipe(steps=3), stop=StopAt(3))[0].step == 3


def test_dropout_is_on_and_differs_by_step_rank_and_seed(tmp_path):
    """Compare the losses of three steps on the same batch with constant weights."""
    folders = itertools.count()

    def losses(dropout: float, seed: int = 0, rank: int = 0) -> list[float]:
        settings = recipe(steps=3, seed=seed, log_every=1, learning_rate=1e-30)
        batches = batches_of(PROCESS, recipe())
        batch = batches.draw(0)
        batches.draw = lambda step: batch
        state, ranks = tiny_state(PROCESS, settings, dropout), replace(ONE_RANK, rank=rank)
        state.network.eval()  # as after an evaluation by a user
        run(tmp_path / str(next(folders)), settings, state=state, batches=batches, ranks=ranks)
        return [entry["loss"] for entry in state.history]

    masked = losses(0.1)
    assert losses(0.1) == masked
    assert len({*masked, *losses(0.1, rank=1), *losses(0.1, seed=1), *losses(0.0)}) == 10


@pytest.mark.parametrize(("step", "kept"), [(0, []), (4, [3])])
def test_nan_in_the_loss_keeps_the_last_good_checkpoint(tmp_path, monkeypatch, step, kept):
    """The NaN occurs between two log entries; the error names its step."""
    settings = recipe(steps=9, checkpoint_every=3, log_every=3)
    plain = EpsilonLoss.__call__
    calls = iter(range(20))

    def broken(self, *arguments):
        return plain(self, *arguments) * (math.nan if next(calls) == step else 1)

    with monkeypatch.context() as patch:
        patch.setattr(EpsilonLoss, "__call__", broken)
        said = (
            f"in the loss at step {step}; checkpoints before it, " if step else "at the first step"
        )
        with pytest.raises(RunError, match=said):
            run(tmp_path / "bad", settings)
    checkpoints = Checkpoints(tmp_path / "bad")
    assert checkpoints.steps() == kept
    if kept:
        good = run(tmp_path / "good", recipe(steps=3))[0].state_dict()
        restored = tiny_state(PROCESS, settings, dropout=0.1)
        checkpoints.restore(restored, checkpoints.newest())
        check_equal(restored.state_dict(), good)


def test_an_infinite_gradient_is_detected_like_nan():
    meter = Meter(ONE_RANK)
    meter.add(3, torch.tensor(1.0), torch.tensor(math.inf))
    meter.add(4, torch.tensor(1.0), torch.tensor(math.nan))
    with pytest.raises(RunError, match="NaN or infinity in the loss at step 3;"):
        meter.read(images_per_step=1)


# --- signals while a training handles them -------------------------------------------------------


def test_a_signal_is_recorded_and_the_handlers_are_restored():
    """SIGUSR2 precedes a time limit, a scheduler sends SIGTERM, and Ctrl-C sends SIGINT."""
    assert {*STOP_SIGNALS} == {signal.SIGUSR2, signal.SIGTERM, signal.SIGINT}
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    for number in STOP_SIGNALS:
        with suppress(Stopped), StopRequest() as stop:
            assert stop.number == 0
            os.kill(os.getpid(), number)
            raise Stopped(number, 0)
        assert stop.number == number
        signal.signal(signal.SIGTERM, before[STOP_SIGNALS.index(signal.SIGTERM)])
        assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_a_warning_after_a_finished_training_is_ignored():
    """After its last step, a rank only waits for rank 0 to write the model and needs no restart."""
    with StopRequest() as stop:
        pass
    assert callable(signal.getsignal(signal.SIGUSR2)), "by default it ends the process"
    os.kill(os.getpid(), signal.SIGUSR2)
    assert stop.number == 0


def test_repeated_signals_of_slurm_are_ignored():
    """Slurm sends SIGTERM twice; the checkpoint after the first signal must be completed."""
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGTERM):
            os.kill(os.getpid(), number)
            assert stop.number == number
    os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)


def test_a_second_ctrl_c_has_its_usual_effect():
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
