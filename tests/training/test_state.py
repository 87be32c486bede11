"""Checkpoints: kept files, restored state, and the handling of damaged files."""

import platform

import pytest
import torch

from psld.diffusion.loss import EpsilonLoss
from psld.training.loop import optimize
from psld.training.state import Checkpoints
from psld.utils.errors import UserError
from tests.diffusion.processes import phase_space
from tests.training.small import batches_of, check_equal, recipe, tiny_state

PROCESS = phase_space(0.02)


def trained(steps: int):
    settings = recipe()
    state, loss = tiny_state(PROCESS, settings), EpsilonLoss(PROCESS)
    batches = batches_of(PROCESS, settings)
    for step in range(steps):
        optimize(state, state.network, loss, batches.draw(step), settings)
    return state


@pytest.fixture(scope="module")
def state():
    return trained(2)


def save_at(checkpoints: Checkpoints, state, *steps: int) -> None:
    for step in steps:
        state.step = step
        checkpoints.write(Checkpoints.copy(state))


def test_a_checkpoint_restores_the_whole_state(tmp_path):
    before, checkpoints = trained(1), Checkpoints(tmp_path)
    before.seconds, before.history = 12.5, [{"step": 1, "loss": 1 / 3}]
    checkpoints.write(Checkpoints.copy(before))
    after = trained(0)
    checkpoints.restore(after, checkpoints.newest())
    assert (after.step, after.seconds, after.history) == (1, 12.5, before.history)
    check_equal(after.state_dict(), before.state_dict())


def test_other_files_are_not_loaded_as_checkpoints(tmp_path, state):
    checkpoints = Checkpoints(tmp_path)
    save_at(checkpoints, state, 10)
    # Files of a killed writer, and files that a user may add.
    partial = tmp_path / f".checkpoint-00000020.pt.{platform.node()}.99999999.partial"
    elsewhere = tmp_path / ".checkpoint-00000015.pt.another-node.99999999.partial"
    for path in (
        *(partial, elsewhere),
        tmp_path / "checkpoint-x.pt",
        tmp_path / "checkpoint-00000030.pt.old",
    ):
        path.write_bytes(b"half")
    assert checkpoints.steps() == [10]
    save_at(checkpoints, state, 20)
    assert checkpoints.steps() == [10, 20]
    assert not partial.exists()
    assert not elsewhere.exists()


def test_a_checkpoint_of_another_network_or_under_another_step_is_named(tmp_path, state):
    checkpoints = Checkpoints(tmp_path)
    save_at(checkpoints, state, 10)
    checkpoints.path(10).rename(checkpoints.path(20))
    said = r"20\.pt: not a checkpoint of this training"
    with pytest.raises(UserError, match=said):
        checkpoints.restore(trained(0), 20)
    torch.save({"state": {"network": {"weight": torch.ones(1)}}}, checkpoints.path(20))
    with pytest.raises(UserError, match=said):
        checkpoints.restore(trained(0), 20)
