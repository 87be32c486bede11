"""The record of a rank's end: written if the rank ends by itself, and only then."""

import json
import os
import signal

import pytest

from psld.cluster.job import LAUNCH, RankCommand, outcome_file, read_outcomes
from psld.utils.files import write_json

LOOK = """
import json, os, signal, sys
seen = {"argv": sys.argv[1:], "launch": os.environ["PSLD_LAUNCH"],
        "threads": os.environ["OMP_NUM_THREADS"],
        "warned": signal.getsignal(signal.SIGUSR2) is not signal.SIG_DFL,
        "notes": [file for file in os.listdir() if "outcome" in file]}
json.dump(seen, open("seen.json", "w"))
"""


@pytest.fixture
def rank(tmp_path, monkeypatch, signals):
    """Runs psld as rank 3 of job 42, which does what a text says; gives the outcomes known then."""
    variables = {
        "SUBMITIT_EXECUTOR": "slurm",
        "SLURM_JOB_ID": "42",
        "SLURM_PROCID": "3",
        "SLURM_CPUS_PER_TASK": "5",
        LAUNCH: "of another",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["submitit"])
    write_json(outcome_file(tmp_path, "42", 3), {"exit_code": 9})

    def run(text: str, raises: type[BaseException] | None = None) -> dict[int, int]:
        monkeypatch.setattr("psld.commands.main.main", lambda: exec(text, {}))
        command = RankCommand(("train", "name=x", "a b"), tmp_path, "mine")
        if raises is None:
            command()
        else:
            with pytest.raises(raises):
                command()
        return read_outcomes(tmp_path, "42")

    return run


@pytest.mark.parametrize(
    ("text", "raises", "outcomes"),
    [
        ("", None, {3: 0}),
        ("import sys; sys.exit()", SystemExit, {3: 0}),
        ("import sys; sys.exit(0)", SystemExit, {3: 0}),
        ("import sys; sys.exit(2)", SystemExit, {3: 2}),
        ("import sys; sys.exit('a complaint')", SystemExit, {3: 1}),
        ("1 / 0", ZeroDivisionError, {3: 1}),
        # It was ended, and did not fail.
        ("import sys; sys.exit(128 + 15)", SystemExit, {}),
        ("import sys; sys.exit(128 + 12)", SystemExit, {}),
        # Another rank was lost, which knows the reason.
        ("from torch.distributed import DistNetworkError as E; raise E('x')", Exception, {}),
        ("raise RuntimeError('[../gloo/transport.cc] Connection closed by peer')", Exception, {}),
        # Its GPU failed, and another one may not.
        ("raise RuntimeError('CUDA error: unspecified launch failure')", Exception, {}),
        (
            "from torch import OutOfMemoryError as E; raise E('CUDA out of memory')",
            Exception,
            {3: 1},
        ),
    ],
)
def test_outcomes(rank, text, raises, outcomes):
    """That of an earlier life, 9, is gone in any case."""
    assert rank(text, raises) == outcomes


def test_what_a_rank_runs_with(rank, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    rank(LOOK)

    assert json.loads((tmp_path / "seen.json").read_text()) == {
        "argv": ["train", "name=x", "a b"],
        "launch": "mine",
        "threads": "5",
        "warned": True,
        "notes": [],
    }


def test_threads_that_are_chosen_stay(rank, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    rank("import os; assert os.environ['OMP_NUM_THREADS'] == '2'")
    assert signal.getsignal(signal.SIGUSR2) is not signal.SIG_DFL
    assert os.environ[LAUNCH] == "mine"


def test_outcomes_of_other_jobs_are_others(tmp_path):
    for job, rank, code in (("1", 0, 0), ("1", 10, 2), ("11", 0, 3), ("21", 1, 4)):
        write_json(outcome_file(tmp_path, job, rank), {"exit_code": code})
    assert read_outcomes(tmp_path, "1") == {0: 0, 10: 2}
    assert read_outcomes(tmp_path, "2") == {}
