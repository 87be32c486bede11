import os
import pathlib
import shutil
from collections import defaultdict

import pytest
import torch

from psld.paper.parameters import read_checkpoint
from psld.utils.errors import UserError
from tests.reference import DEFAULT

CHECKPOINT = DEFAULT / "checkpoint_tiny.ckpt"


def save(path: pathlib.Path, state: dict[str, object], **more: object) -> pathlib.Path:
    torch.save({"state_dict": state, **more}, path)
    return path


def test_online_and_ema_weights_are_read_separately(tmp_path):
    state = {
        "score_fn.all_modules.0.W": torch.zeros(2),
        "ema_score_fn.all_modules.0.W": torch.ones(2),
        "criterion.weight": torch.ones(1),
    }
    checkpoint = read_checkpoint(save(tmp_path / "a.ckpt", state, global_step=7))
    assert checkpoint.online.keys() == checkpoint.ema.keys() == {"all_modules.0.W"}
    assert checkpoint.online["all_modules.0.W"].sum() == 0
    assert checkpoint.ema["all_modules.0.W"].sum() == 2
    assert checkpoint.step == 7


def test_guide_has_no_ema(tmp_path):
    checkpoint = read_checkpoint(
        save(tmp_path / "a.ckpt", {"clf_fn.all_modules.0.b": torch.ones(1)})
    )
    assert checkpoint.online.keys() == {"all_modules.0.b"}
    assert checkpoint.ema is None
    assert checkpoint.step is None


class Harmful:
    """An object that copies a file when it is unpickled."""

    def __init__(self, target: pathlib.Path):
        self.target = target

    def __reduce__(self):
        return shutil.copyfile, (str(CHECKPOINT), str(self.target))


def test_unknown_objects_are_skipped_and_not_executed(tmp_path):
    trap = tmp_path / "trap"
    state = {"score_fn.all_modules.0.b": torch.ones(1)}
    path = save(tmp_path / "a.ckpt", state, config=Harmful(trap), folder=tmp_path)
    assert read_checkpoint(path).online.keys() == {"all_modules.0.b"}
    assert not trap.exists()


def test_error_names_an_object_that_cannot_be_skipped(tmp_path):
    """torch cannot replace a subclass of dict by a placeholder."""
    state = {"score_fn.all_modules.0.b": torch.ones(1)}
    path = save(tmp_path / "a.ckpt", state, config=defaultdict(int, steps=3))
    advice = r"a\.ckpt: contains objects .*\(.*collections\.defaultdict.*save only state_dict"
    with pytest.raises(UserError, match=advice):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: None, "no such file"),
        (lambda path: path.symlink_to(path.name), "no such file"),
        (pathlib.Path.mkdir, "a folder"),
        (os.mkfifo, "not a regular file"),
        (pathlib.Path.touch, "an empty file"),
        (lambda path: path.write_text("\n<!DOCTYPE html><p>expired"), "a web page, not a"),
    ],
)
def test_error_describes_a_path_that_is_not_a_file(tmp_path, make, message):
    """A named pipe is refused without waiting for a writer."""
    make(tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=rf"x\.ckpt: {message}"):
        read_checkpoint(tmp_path / "x.ckpt")


def test_weight_name_that_is_not_a_string_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"a\.ckpt: not a Lightning checkpoint"):
        read_checkpoint(save(tmp_path / "a.ckpt", {1: torch.ones(1)}))


@pytest.mark.parametrize("share", [0.01, 0.999])
def test_truncated_file_is_refused(tmp_path, share):
    whole = CHECKPOINT.read_bytes()
    path = tmp_path / "cut.ckpt"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match=r"cut\.ckpt: not a readable checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "no state_dict of tensors"),
        ({"state_dict": {"score_fn.a": 3}}, "no state_dict of tensors"),
        ({"state_dict": {"unet.a": torch.ones(1)}}, r"begins with score_fn\. or clf_fn\."),
    ],
)
def test_file_without_official_weights_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match=message):
        read_checkpoint(tmp_path / "other.ckpt")
