"""`psld train_guide`: its outputs, its continuation and its errors."""

import json

import pytest

from psld.data.store import ImageStore
from psld.training.manifest import HISTORY, TrainingHistory, WandbRun
from tests.commands import TINY, call, refused, run_directory, succeeded
from tests.results import weights_digest

SETTINGS = (
    *TINY,
    "network.dropout=0.1",
    "training.steps=12",
    "training.checkpoint_every=4",
    "output=guide",
)


@pytest.fixture(scope="module")
def finished(digits, tmp_path_factory):
    """The folder of a finished training, with checkpoints at steps 8 and 12."""
    folder = tmp_path_factory.mktemp("guide")
    succeeded(call(folder, "train_guide", *SETTINGS, f"data={digits}"))
    return folder


def weights(folder) -> bytes:
    return (folder / "guide" / "weights.safetensors").read_bytes()


def test_the_guide_says_what_it_is(finished, digits):
    manifest = json.loads((finished / "guide" / "manifest.json").read_text())
    assert manifest["kind"] == "guide"
    assert manifest["dataset_digest"] == ImageStore.open(digits).digest
    assert manifest["step"] == 12
    assert manifest["images_seen"] == 12 * 16
    assert manifest["settings"]["process"]["gamma"] == 0.01
    assert len(manifest["accuracy_by_time"]) == 10
    assert all(0 <= accuracy <= 1 for accuracy in manifest["accuracy_by_time"])
    assert manifest["weights_sha256"] == weights_digest(finished / "guide")


def test_previews_are_its_accuracy(digits, tmp_path):
    overrides = (*SETTINGS, "training.preview_every=6", "wandb.mode=offline", f"data={digits}")
    succeeded(call(tmp_path, "train_guide", *overrides))
    history = TrainingHistory.read(run_directory(tmp_path) / HISTORY)
    logged = {entry.step: entry.model_dump() for entry in history.entries}
    assert [step for step, values in logged.items() if "accuracy" in values] == [6, 12]
    assert "accuracy/t0.5-0.6" in logged[6]
    assert WandbRun.read(run_directory(tmp_path)).job_type == "train_guide"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["dataset.num_classes=0"], ["dataset digits has no classes to tell apart"]),
        (["+training.weighting=fid"], ["unknown key training.weighting"]),
        (["+network.progressive_output=residual"], ["unknown key network.progressive_output"]),
        (["network.channel_multipliers=[1,2,4,8,16]"], ["cannot be halved 4 times"]),
        (["data=absent.h5"], ["absent.h5: no such file"]),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(digits, tmp_path, overrides, words):
    given = call(tmp_path, "train_guide", *SETTINGS, f"data={digits}", *overrides)
    refused(given, 2, *words)
    assert list(tmp_path.iterdir()) == []
