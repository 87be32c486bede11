"""submitit's pickles run code: a job reads them only if nobody else can have written them."""

import os
import sys
from pathlib import Path

import pytest
from submitit import LocalExecutor, SlurmExecutor
from submitit.core.utils import DelayedSubmission

from psld.cluster.pickles import load_own, read_own_pickles_only
from psld.utils.errors import UserError
from tests.commands import run

MODES = [
    (0o775, 0o700, True),  # a launch in the runs of a group
    (0o700, 0o775, True),  # a job of a sweep, which submitit makes with the user's umask
    (0o775, 0o775, False),
    (0o775, 0o750, False),  # The file itself may be the group's to write.
]


def pickled(tmp_path: Path, above: int, mode: int) -> Path:
    """A pickle of a job, in folders with these modes, as a umask of 002 leaves it."""
    file = tmp_path / "launches" / "mine" / "42_submitted.pkl"
    file.parent.mkdir(parents=True)
    DelayedSubmission(os.mkdir, str(tmp_path / "was-run")).dump(file)
    for path, bits in ((file, 0o664), (file.parent, mode), (file.parents[1], above)):
        path.chmod(bits)
    return file


@pytest.mark.parametrize(("above", "mode", "is_taken"), MODES)
def test_a_pickle_is_read_if_nobody_else_can_have_written_it(tmp_path, above, mode, is_taken):
    file = pickled(tmp_path, above, mode)
    if is_taken:
        assert load_own(file).function is os.mkdir
    else:
        with pytest.raises(UserError, match="other users may have written it"):
            load_own(file)


def test_nobody_elses_pickle_is_read(tmp_path, monkeypatch):
    file = pickled(tmp_path, 0o775, 0o700)
    if os.geteuid() == 0:
        os.chown(file, 12345, -1)
    else:
        monkeypatch.setattr("os.geteuid", lambda: 12345)
    with pytest.raises(UserError, match="other users may have written it"):
        load_own(file)


def test_a_job_does_not_run_what_others_can_have_written(tmp_path):
    file = pickled(tmp_path, 0o775, 0o775)
    job = ["env", "SUBMITIT_EXECUTOR=slurm", "SLURM_JOB_ID=42", sys.executable, "-m"]
    ended = run(tmp_path, [*job, "psld.cluster.pickles", str(file.parent)])
    assert ended.returncode == 1
    assert f"\nerror: {file}: other users may have written it" in ended.stderr
    assert not (tmp_path / "was-run").exists()


def test_a_link_to_a_pickle_is_not_followed(tmp_path):
    file = pickled(tmp_path, 0o775, 0o700)
    link = file.with_name("43_submitted.pkl")
    link.symlink_to(file)
    with pytest.raises(OSError, match="symbolic links"):
        load_own(link)


@pytest.mark.parametrize("kind", [LocalExecutor, SlurmExecutor])
def test_jobs_of_submitit_are_started_so(slurm, tmp_path, kind):
    """submitit has another way to start a job, or to read a pickle, if this fails."""
    read_own_pickles_only()
    executor = kind(tmp_path / "a b")
    assert executor._submitit_command_str.endswith(f" -u -m psld.cluster.pickles '{tmp_path}/a b'")
    with pytest.raises(UserError, match="other users may have written it"):
        DelayedSubmission.load(pickled(tmp_path, 0o775, 0o775))
