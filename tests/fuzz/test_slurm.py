"""Answers of squeue: a known state, or one line and the question again."""

import subprocess

from hypothesis import given
from hypothesis import strategies as st

from psld.cluster import slurm
from tests.fuzz.inputs import answer, damaged

JOBS = b"17 RUNNING\n4 COMPLETED\n123456 PENDING\n"
STATES = (b"PENDING ReqNodeNotAvail, UnavailableNodes:n1\n", b"RUNNING None\n", b"TIMEOUT\n", b"\n")


def test_active_jobs(monkeypatch):
    @given(damaged(JOBS))
    def check(output):
        monkeypatch.setattr(subprocess, "run", lambda *_, **given: answered(output, given))
        found = answer("squeue", lambda: slurm.active_jobs_named("x"), "squeue")
        assert found is None or all(job.isdigit() for job in found)

    check()


def test_states(monkeypatch):
    @given(st.sampled_from(STATES).flatmap(damaged))
    def check(output):
        monkeypatch.setattr(subprocess, "run", lambda *_, **given: answered(output, given))
        found = answer("squeue", lambda: slurm.state_of("17"), "squeue")
        assert found is None or len(found) == 2

    check()


def answered(output: bytes, given: dict) -> subprocess.CompletedProcess:
    """What `subprocess.run` makes of these bytes."""
    text = output.decode(errors=given.get("errors") or "strict")
    return subprocess.CompletedProcess([], 0, text.replace("\r\n", "\n"), "")
