"""A training on several ranks: two processes over gloo compared with one process."""

import os
import sys
from datetime import timedelta
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file

from psld.training import ranks as ranks_module
from psld.training.ranks import join_ranks
from psld.utils.device import tf32_in_use
from psld.utils.environment import TORCHRUN, meeting_port
from psld.utils.errors import UserError
from tests.commands import TINY, call, command, run, run_directory, succeeded
from tests.parts.own import LAYERS, NETWORK, write
from tests.utils.test_use_device import gpus  # noqa: F401

SETTINGS = (
    *TINY,
    "training.steps=8",
    "training.checkpoint_every=4",
    "training.log_every=4",
    "training.micro_batch=4",
)


@pytest.mark.slow
def test_two_ranks_train_the_same_weights_as_one_rank(digits, tmp_path):
    """Without dropout, weights, average and optimizer agree up to rounding."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    settings = (*SETTINGS, f"data={digits}", "output=model")
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    succeeded(call(one, "train", *settings))
    train = command("train", *settings)[1:]
    finished = succeeded(run(two, [*launcher, *train]))
    assert finished.stdout.count("step 8/8") == 1, "the leading rank alone reports"
    assert finished.stdout.count("wrote") == 1

    weights = [load_file(folder / "model" / "weights.safetensors") for folder in (one, two)]
    last = "checkpoints/checkpoint-00000008.pt"
    trained = [torch.load(run_directory(folder) / last) for folder in (one, two)]
    trained = [each["state"]["network"] for each in trained]
    for first, second in (weights, trained):
        assert first.keys() == second.keys()
        for name, value in first.items():
            torch.testing.assert_close(second[name], value, atol=1e-5, rtol=0, msg=name)


@pytest.mark.slow
def test_two_ranks_train_a_network_with_an_unused_weight(digits, tmp_path):
    spare = "self.register_buffer(", "self.spare = nn.Linear(2, 2)\n        self.register_buffer("
    folder = write(tmp_path, mine=NETWORK.replace(*spare), mylayers=LAYERS)
    tiny = [word for word in TINY if not word.startswith("network")]
    words = [*tiny, "network=mine:Mixer", "training.steps=2", f"data={digits}", "output=model"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    succeeded(run(folder, [*launcher, *command("train", *words)[1:]]))
    assert "spare.weight" in load_file(folder / "model/weights.safetensors")


@pytest.mark.parametrize("left", [{"WORLD_SIZE": "4", "RANK": "1"}, {"RANK": "1"}])
def test_leftover_rank_variables_in_the_environment_are_refused(monkeypatch, left):
    """As rank 1, the process would train but write nothing."""
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"set in this shell.*unset RANK WORLD_SIZE"):
        next(join_ranks("cpu").gen)


def test_neighboring_jobs_and_restarts_use_different_ports(monkeypatch):
    """The ports are below the range of outgoing connections, which starts at 32768 on Linux."""

    def port(job: int, lives: int) -> int:
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(lives))
        return meeting_port(Mock(raw_job_id=str(job)))

    jobs = [port(job, lives=0) for job in (1, 2, 26, 27, 28, 11_999, 12_000, 4_000_000_000)]
    lives = [port(25, lives) for lives in range(4)]
    assert len({*jobs, *lives}) == len(jobs) + len(lives)
    assert all(20_000 <= number < 32_000 for number in (*jobs, *lives))
    monkeypatch.delenv("SLURM_RESTART_COUNT")
    assert meeting_port(Mock(raw_job_id="25")) == lives[0]


# --- exchange -----------------------------------------------------------------------------------


@pytest.fixture
def group(monkeypatch) -> Mock:
    """A stand-in for torch.distributed: this process is rank 1 of 2, on the second GPU."""
    for name, value in zip(TORCHRUN, ("1", "1", "2", "localhost", "0"), strict=True):
        monkeypatch.setenv(name, value)
    group = Mock(ReduceOp=torch.distributed.ReduceOp)
    monkeypatch.setattr(ranks_module, "dist", group)
    return group


def test_gpus_exchange_gradients_by_nccl_and_numbers_by_gloo(gpus, group):  # noqa: F811
    """The timeout is at least one day until all ranks have joined, and 30 minutes afterwards."""
    os.environ |= {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
    backend = group.group.WORLD._get_backend.return_value
    with join_ranks("auto") as ranks:
        assert (ranks.rank, ranks.world) == (5, 8)
        assert tf32_in_use() == (True, True)
        [[names], options] = group.init_process_group.call_args
        assert names == "cpu:gloo,cuda:nccl"
        assert options["device_id"] == ranks.device == torch.device("cuda:1")
        assert options["timeout"] >= timedelta(days=1)
        ranks.barrier(), ranks.largest(3), ranks.mean(torch.ones(2))
        ranks.limit_exchanges()
    calls = group.all_reduce.mock_calls
    assert len(calls) == 5, "a barrier before the limit, and one at the end"
    assert {call.args[0].device.type for call in calls} == {"cpu"}
    backend._set_default_timeout.assert_called_once_with(timedelta(minutes=30))
    group.destroy_process_group.assert_called_once()


def test_numbers_are_combined_over_all_ranks(group):
    """Each number of the other rank is larger by 5."""

    def all_reduce(values, op=torch.distributed.ReduceOp.SUM, group=None):
        assert group is not None, "threads of the gradients' group would outlive Python"
        if op == torch.distributed.ReduceOp.SUM:
            values += values + 5
        else:
            assert op == torch.distributed.ReduceOp.MAX
            values += 5

    group.all_reduce = all_reduce
    with join_ranks("cpu") as ranks:
        assert (ranks.rank, ranks.world, ranks.leads) == (1, 2, False)
        assert ranks.mean(torch.tensor([1.0, 3.0])).tolist() == [3.5, 5.5]
        assert ranks.largest(7) == 12
        ranks.limit_exchanges()
    [[backend], options] = group.init_process_group.call_args
    assert (backend, options["device_id"]) == ("gloo", None)
    group.group.WORLD._get_backend.assert_not_called()
