"""Answers of squeue: a known state, or one line and the question again."""

import subprocess

from hypothesis import given

from psld.cluster import slurm
from tests.fuzz.inputs import answer, damaged

JOBS = b"""\
17 RUNNING None
4 COMPLETED
123456 PENDING ReqNodeNotAvail, UnavailableNodes:n1
"""


def test_jobs(monkeypatch):
    @given(damaged(JOBS))
    def check(output):
        monkeypatch.setattr(subprocess, "run", lambda *_, **options: answered(output, options))
        jobs = answer("squeue", lambda: slurm.jobs_named("x"), "squeue")
        assert jobs is None or all(number.isdigit() for number in jobs)

    check()


def answered(output: bytes, given: dict) -> subprocess.CompletedProcess:
    """What `subprocess.run` makes of these bytes."""
    text = output.decode(errors=given.get("errors") or "strict")
    return subprocess.CompletedProcess([], 0, text.replace("\r\n", "\n"), "")
