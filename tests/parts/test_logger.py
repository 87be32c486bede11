"""Loggers get each entry, and no error of a logger stops a training."""

import json
import shutil
import sys
from itertools import chain
from types import SimpleNamespace

import pytest

from psld.training import loggers
from psld.training.files import write_history
from tests.commands import TINY, call, refused, run_directory, succeeded
from tests.workflow.project import REPOSITORY

WORDS = (*TINY, "training.steps=8", "training.checkpoint_every=4", "training.log_every=2")


@pytest.fixture
def train(digits, outside, monkeypatch):
    """Return a function that trains with additional overrides and returns the output."""
    monkeypatch.setattr(loggers, "PATIENCE", 0.5)
    return lambda *more: succeeded(call(outside, "train", *WORDS, f"data={digits}", *more)).stdout


def test_a_logger_gets_each_entry_once_also_after_a_restart(train, outside):
    both = "logger=[mine:Lines,{kind: mine:Lines, file: other.txt}]"
    train(both)
    logged = (outside / "log.txt").read_text()
    assert logged == "".join(f"psld 0 {step}\n" for step in (2, 4, 6, 8, None))
    assert (outside / "other.txt").read_text() == logged
    run = run_directory(outside)
    entries = json.loads((run / "history.json").read_text())["entries"]
    for given, checkpoint, rest in (
        (6, 4, (8, None)),  # killed twice, the first time after step 6
        (2, 8, (4, 6, 8, None)),  # killed after a checkpoint was written, but before its history
    ):
        (run / "logged").write_text(f"{given}\n")
        if checkpoint == 4:
            (run / "checkpoints/checkpoint-00000008.pt").unlink()
        write_history(run, entries[: checkpoint // 2])
        shutil.rmtree(run / "model")
        (outside / "log.txt").unlink()
        train("logger=mine:Lines")
        assert (outside / "log.txt").read_text() == "".join(f"psld {given} {s}\n" for s in rest)
        history = json.loads((run / "history.json").read_text())["entries"]
        assert [entry["step"] for entry in history] == [2, 4, 6, 8]
    train("logger=mine:Lines")  # The training is complete, and so is its log.
    assert (outside / "log.txt").read_text() == "".join(f"psld 2 {s}\n" for s in rest)


def test_a_failing_logger_prints_one_line(train, outside):
    """The logger raises or hangs, at its start, at an entry, or at the end."""
    fails = [(at, hangs) for hangs in (False, True) for at in ("start", "entry", "end")]
    words = (f"{{kind: mine:Fails, at: {at}, hangs: {hangs}}}" for at, hangs in fails)
    printed = train(f"logger=[{','.join(words)},mine:Lines]")
    assert printed.count("logger: ") == len(fails)
    for reason in ("more than 0.5 seconds in one call", "KeyError: 'of a logger'"):
        line = f"logger: mine:Fails: {reason}; it gets no more entries\n"
        assert printed.count(line) == 3
    assert "wrote models/by-hand/psld" in printed
    assert (outside / "log.txt").read_text().endswith("psld 0 None\n"), "the other one goes on"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("logger=tensorboard", "no logger 'tensorboard'; there are: MODULE:CLASS of a custom part"),
        ("logger=[{kind: mine:Lines, fil: x}]", "unknown key logger.0.fil"),
    ],
)
def test_a_wrong_logger_is_refused_before_the_training(digits, outside, word, said):
    refused(call(outside, "train", *WORDS, f"data={digits}", word), 2, "logger", said)
    assert not (outside / "runs").exists()


def test_the_tensorboard_logger_of_the_examples_writes_the_history(train, outside, monkeypatch):
    """The class is in docs/examples/boards.py; its calls of tensorboard are recorded."""
    calls = []

    class SummaryWriter:
        def __init__(self, folder):
            calls.append(folder)

        def add_scalar(self, *given):
            calls.append(given)

        def flush(self):
            calls.append("flush")

    package = SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", package)
    shutil.copy(REPOSITORY / "docs/examples/boards.py", outside)
    train("logger=boards:TensorBoard")
    run = run_directory(outside)
    entries = json.loads((run / "history.json").read_text())["entries"]
    drawn = [[(*item, each["step"], each["time"]) for item in each.items()] for each in entries]
    assert calls == [f"boards/{run.name}", *chain(*([*each, "flush"] for each in drawn)), "flush"]
