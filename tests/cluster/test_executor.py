"""The fix of Snakemake's Slurm plugin, tested on the plugin's own code without submission."""

import base64
import json
import random
import subprocess
import zlib
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from types import SimpleNamespace

import pytest
import snakemake_executor_plugin_slurm as plugin

from psld.cluster.executor import COMMAND_BYTES, repair_slurm_executor
from tests.cluster.commands import Commands


class Submitted(list):
    """What the plugin's executor submits: an array as the list of its jobs, or a job."""

    array_jobs = {"sample"}
    logger = SimpleNamespace(debug=lambda text: None)
    max_array_size = 500
    run_jobs = plugin.Executor.run_jobs
    _main_event_loop = None

    def __init__(self, ready: int, letters: int = 100) -> None:
        rule = SimpleNamespace(name="sample")
        self.workflow = SimpleNamespace(
            dag=SimpleNamespace(ready_jobs=[SimpleNamespace(rule=rule)] * ready)
        )
        self.letters = letters

    def format_job_exec(self, job: SimpleNamespace) -> str:
        """A command that does not compress."""
        return random.Random(job.number).randbytes(self.letters).hex()

    def _submit_job(self, job: SimpleNamespace) -> None:
        self.append(job.number)


@pytest.fixture
def submit(monkeypatch):
    """Hand a batch to a plugin that was repaired twice, as by a Snakefile that is read again."""
    monkeypatch.setattr(plugin, "pending_jobs_for_rule", plugin.pending_jobs_for_rule)
    monkeypatch.setattr(plugin.Executor, "cancel_jobs", plugin.Executor.cancel_jobs)

    def submit_array(executor: Submitted, jobs: list) -> None:
        executor.append([job.number for job in jobs])

    monkeypatch.setattr(plugin.Executor, "_submit_array_jobs", submit_array)
    repair_slurm_executor()
    repair_slurm_executor()
    monkeypatch.setattr(
        Submitted, "_submit_array_jobs", plugin.Executor._submit_array_jobs, raising=False
    )

    def submit_batch(size: int, ready: int, **executor) -> Submitted:
        submitted = Submitted(ready, **executor)
        rule = SimpleNamespace(name="sample")
        submitted.run_jobs(
            [SimpleNamespace(rule=rule, number=n, is_group=lambda: False) for n in range(size)]
        )
        return submitted

    return submit_batch


@pytest.mark.parametrize("ready", [0, 1, 5, 1000])
def test_a_batch_is_submitted_whatever_else_is_ready(submit, ready):
    assert submit(1, ready) == [0]
    assert submit(3, ready) == [[0, 1, 2]]


def test_no_array_is_larger_than_slurm_takes(submit):
    submitted = submit(1200, 0, letters=1)
    assert [len(array) for array in submitted] == [500, 500, 200]
    assert list(chain(*submitted)) == list(range(1200))


def test_no_array_is_larger_than_a_command_line_takes(submit):
    submitted = submit(100, 0, letters=1000)
    assert list(chain(*submitted)) == list(range(100))
    sizes = [payload(submitted, array) for array in submitted]
    assert all(0.9 * COMMAND_BYTES < size <= COMMAND_BYTES for size in sizes[:-1])
    assert submit(2, 0, letters=COMMAND_BYTES) == [[0], [1]]


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.usefixtures("submit")
def test_ctrl_c_cancels_what_is_not_on_the_list_of_active_jobs(slurm: Commands, answers):
    """The list is empty while the plugin asks for their states; sbatch may be under way."""
    if not answers:
        slurm.answer("scancel", stderr="Socket timed out", exit_code=1)
    complaints: list[str] = []
    with ThreadPoolExecutor(1) as submissions:
        submissions.submit(subprocess.run, "/bin/sleep 0.5; sbatch", shell=True)
        plugin.Executor.cancel_jobs(
            SimpleNamespace(
                _job_submission_executor=submissions,
                run_uuid="run-1",
                logger=SimpleNamespace(error=complaints.append),
            ),
            [],
        )
        assert len(slurm.calls("sbatch")) == 1
        assert slurm.calls("scancel") == ["--me --name=run-1"]
    assert complaints == (
        [] if answers else ["Socket timed out; the jobs go on: scancel --me --name=run-1 ends them"]
    )


def payload(executor: Submitted, array: list[int]) -> int:
    """The length of the commands of an array's tasks, as the plugin writes them."""
    commands = {
        f"{n}": zlib.compress(
            executor.format_job_exec(SimpleNamespace(number=n)).encode(), level=9
        ).hex()
        for n in array
    }
    return len(base64.b64encode(json.dumps(commands).encode()))
