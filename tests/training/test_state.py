"""Checkpoints: kept files, restored state, and the handling of damaged files."""

import platform

import pytest
import torch

from psld.diffusion.loss import EpsilonLoss
from psld.training.loop import optimize
from psld.training.state import Checkpoints
from psld.utils.errors import UserError
from tests.commands import disk_full_after, files_below
from tests.diffusion.processes import phase_space
from tests.training.small import batches_of, check_equal, recipe, tiny_state

PROCESS = phase_space(0.02)
CPU = torch.device("cpu")


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
        checkpoints.save(state)


def test_a_checkpoint_gives_back_the_whole_state(tmp_path):
    before, checkpoints = trained(3), Checkpoints(tmp_path)
    before.seconds = 12.5
    checkpoints.save(before)
    after = trained(0)
    checkpoints.restore(after, CPU, checkpoints.newest())
    assert (after.step, after.seconds) == (3, 12.5)
    check_equal(after.state_dict(), before.state_dict())


def test_without_a_checkpoint_the_state_stays_at_its_start(tmp_path):
    state = trained(0)
    checkpoints = Checkpoints(tmp_path / "absent")
    checkpoints.restore(state, CPU, checkpoints.newest())
    assert state.step == 0


def test_the_last_two_are_kept_and_the_milestones(tmp_path, state):
    checkpoints = Checkpoints(tmp_path, milestone_every=40)
    save_at(checkpoints, state, *range(10, 140, 10))
    assert checkpoints.steps() == [40, 80, 120, 130]
    without = Checkpoints(tmp_path / "without")
    save_at(without, state, *range(10, 140, 10))
    assert without.steps() == [120, 130]


def test_other_files_are_no_checkpoints(tmp_path, state):
    checkpoints = Checkpoints(tmp_path)
    save_at(checkpoints, state, 10)
    # What a killed writer leaves, and what a user may put there.
    partial = tmp_path / f".checkpoint-00000020.pt.{platform.node()}.99999999.partial"
    for path in (partial, tmp_path / "checkpoint-x.pt", tmp_path / "checkpoint-00000030.pt.old"):
        path.write_bytes(b"half")
    assert checkpoints.steps() == [10]
    save_at(checkpoints, state, 20)
    assert checkpoints.steps() == [10, 20]
    assert not partial.exists()


@pytest.mark.parametrize("older", [True, False])
def test_a_checkpoint_cut_anywhere_is_named(tmp_path, state, older):
    checkpoints = Checkpoints(tmp_path)
    save_at(checkpoints, state, *([10, 20] if older else [20]))
    path = checkpoints.path(20)
    whole = path.read_bytes()
    advice = "go on from step 10" if older else "start again"
    for size in (0, 1, 100, *range(1000, len(whole), len(whole) // 12), len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError) as caught:
            checkpoints.restore(trained(0), CPU, checkpoints.newest())
        assert str(caught.value).startswith(f"{path}: damaged checkpoint")
        assert str(caught.value).endswith(f"delete it to {advice}")
    path.write_bytes(whole)
    checkpoints.restore(trained(0), CPU, checkpoints.newest())


def test_a_flipped_byte_does_not_pass_for_weights(tmp_path, state):
    checkpoints = Checkpoints(tmp_path)
    save_at(checkpoints, state, 20)
    content = bytearray(checkpoints.path(20).read_bytes())
    weights = state.network.up[0].blocks[0].conv1.weight.detach().numpy().tobytes()
    content[content.index(weights) + len(weights) // 2] ^= 0x40
    checkpoints.path(20).write_bytes(content)
    with pytest.raises(UserError, match="damaged checkpoint"):
        checkpoints.restore(trained(0), CPU, checkpoints.newest())


@pytest.mark.parametrize("content", [{}, {"step": 3}, [1], {"network": {"weight": [1]}}])
def test_a_foreign_file_is_named(tmp_path, content):
    checkpoints = Checkpoints(tmp_path)
    torch.save(content, checkpoints.path(20))
    with pytest.raises(UserError, match="damaged checkpoint"):
        checkpoints.restore(trained(0), CPU, checkpoints.newest())


class Malicious:
    def __reduce__(self):
        return print, ("code of a stranger",)


def test_nothing_in_a_checkpoint_is_executed(tmp_path, capsys):
    checkpoints = Checkpoints(tmp_path)
    torch.save({"step": Malicious()}, checkpoints.path(20))
    with pytest.raises(UserError, match="damaged checkpoint"):
        checkpoints.restore(trained(0), CPU, checkpoints.newest())
    assert capsys.readouterr().out == ""


def test_a_full_disk_leaves_the_older_checkpoints_and_nothing_else(tmp_path, state):
    checkpoints = Checkpoints(tmp_path)
    save_at(checkpoints, state, 10, 20)
    before = files_below(tmp_path)
    size = checkpoints.path(20).stat().st_size
    for limit in (0, 100, size // 2, size - 1):
        with disk_full_after(limit), pytest.raises(OSError, match="checkpoint-00000030") as caught:
            save_at(checkpoints, state, 30)
        assert caught.value.filename == str(checkpoints.path(30))
        assert files_below(tmp_path) == before
