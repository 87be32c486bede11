"""`psld train`: its outputs, its errors, and the files after a failure."""

import json
import os
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file

import psld.training.batches as batches
import psld.training.loop as loop
import psld.training.run as training_run
from psld.data.store import ImageStore
from psld.models.manifest import ModelManifest, read_manifest
from psld.sampling.model import load_model
from psld.training.files import HISTORY, TrainingHistory
from psld.utils.errors import RunError
from psld.utils.locks import held_if_free
from tests.commands import TINY, call, files_below, refused, run_directory, succeeded
from tests.results import weights_digest

SETTINGS = (
    *TINY,
    "network.dropout=0.1",
    "training.steps=12",
    "training.checkpoint_every=4",
    "output=model",
)


@pytest.fixture(scope="module")
def finished(digits, tmp_path_factory):
    """The folder of a finished training, with checkpoints at steps 8 and 12."""
    folder = tmp_path_factory.mktemp("finished")
    succeeded(call(folder, "train", *SETTINGS, f"data={digits}"))
    return folder


@pytest.fixture
def trained(finished, tmp_path):
    """A copy of the finished training, which a test may damage."""
    return shutil.copytree(finished, tmp_path / "trained")


def checkpoint(folder, step):
    (path,) = folder.glob(f"runs/*/checkpoints/checkpoint-{step:08d}.pt")
    return path


def weights(folder):
    return (folder / "model" / "weights.safetensors").read_bytes()


def test_the_manifest_describes_the_model(finished, digits):
    manifest = json.loads((finished / "model" / "manifest.json").read_text())
    assert manifest["name"] == "psld"
    assert manifest["grid"] == "by-hand"
    assert manifest["dataset_digest"] == ImageStore.open(digits).digest
    assert (manifest["step"], manifest["images_seen"]) == (12, 12 * 16)
    assert manifest["settings"]["network"]["dropout"] == 0.1
    assert manifest["seconds"] > 0
    assert (manifest["ranks"], manifest["device"].partition(" ")[0]) == (1, "CPU")
    histories = (finished / manifest["run"] / HISTORY, finished / "model" / HISTORY)
    steps = [[entry.step for entry in TrainingHistory.read(path).entries] for path in histories]
    assert steps == [[4, 8, 12]] * 2
    assert manifest["weights_sha256"] == weights_digest(finished / "model")
    assert manifest["versions"]["torch"] == torch.__version__
    assert {path.name for path in (finished / manifest["run"]).iterdir()} == {
        "checkpoints",
        "history.json",
        "lock",
        "model",
        "settings.json",
        "step",
    }
    model = load_model(finished / "model", torch.device("cpu"))
    assert manifest["parameters"] == sum(p.numel() for p in model.network.parameters())
    assert not model.network.training


def test_the_weights_are_the_moving_average(finished):
    exported = load_file(finished / "model" / "weights.safetensors")
    state = torch.load(checkpoint(finished, 12))["state"]
    average = state["averages"]["training.average"]["network"]
    assert exported.keys() == average.keys()
    for name, value in exported.items():
        assert torch.equal(value, average[name]), name
    assert any(not torch.equal(exported[name], state["network"][name]) for name in exported)


def test_without_a_decay_the_weights_are_those_of_the_last_step(digits, tmp_path, monkeypatch):
    """`run_training` also returns the last loss, for sweeps."""
    losses, whole = [], training_run.run_training
    train = "psld.training.run.run_training"
    monkeypatch.setattr(train, lambda *given: losses.append(whole(*given)))
    short = ("training.steps=2", "training.ema_decay=0", "training.log_every=1")
    succeeded(call(tmp_path, "train", *SETTINGS, f"data={digits}", *short))
    entries = TrainingHistory.read(tmp_path / "model" / HISTORY).entries
    assert losses == [entries[1].loss] != [entries[0].loss]
    exported = load_file(tmp_path / "model" / "weights.safetensors")
    state = torch.load(checkpoint(tmp_path, 2))["state"]
    assert all(torch.equal(exported[name], state["network"][name]) for name in exported)


def test_a_training_reports_what_it_replaces_and_what_it_wrote(trained, digits):
    words = ("train", *SETTINGS, f"data={digits}")
    assert "nothing new for model; its run" in succeeded(call(trained, *words)).stdout
    lines = succeeded(call(trained, *words, "training.steps=1")).stdout.splitlines()
    assert lines[0].startswith("model: replaces the weights of another training, which stay in run")
    assert lines[1].startswith("training model for 1 steps")
    assert lines[-1].startswith("wrote model; its run")


def test_the_lock_is_taken_before_the_ranks_join(digits, tmp_path, monkeypatch):
    """Other ranks wait for rank 0 without a time limit, which an nccl group would impose."""
    held = []

    def join(device):
        with held_if_free(run_directory(tmp_path) / "lock") as was_free:
            held.append(not was_free)
        raise RunError("no others here")

    monkeypatch.setattr(training_run, "join_ranks", join)
    refused(call(tmp_path, "train", *SETTINGS, f"data={digits}"), 1, "no others here")
    assert held == [True]


def test_a_finished_training_only_exports_even_with_other_intervals(trained, digits, monkeypatch):
    """The intervals do not determine the weights, so the run directory is the same."""
    before = weights(trained)
    shutil.rmtree(trained / "model")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "optimize", None)  # No step can be taken.
        succeeded(call(trained, "train", *SETTINGS, f"data={digits}", "wandb.mode=offline"))
    assert weights(trained) == before
    assert not list(trained.glob("runs/*/wandb.json")), "no run in wandb either"
    checkpoint(trained, 12).unlink()
    changed = ("training.checkpoint_every=3", "training.log_every=1")
    printed = succeeded(call(trained, "train", *SETTINGS, f"data={digits}", *changed)).stdout
    assert "resuming from step 8: " in printed
    assert len(list((trained / "runs").iterdir())) == 1
    assert weights(trained) == before


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("train", "training.stepz=5", "stepz"),
        ("train", "+training.stepz=5", "unknown key training.stepz"),
        ("train", "process=ornstein", "process…ornstein…vp-sde"),
        ("train", "training.steps=0", "training.steps…greater than or equal to 1"),
        ("train", "device=gpu", "device…'gpu'"),
        ("train", "data=absent.h5", "absent.h5: no such file…psld prepare dataset=absent"),
        ("train", "dataset.channels=3", "digits.h5…has channels 1…dataset.channels is 3"),
        ("train", "training.steps", "training.steps"),
        ("train", "process=recipe process.D=[[0,0,0],[0,0,0],[0,0,-1]]", "process: "),
        (
            "train",
            "dataset.num_classes=0 training.label_dropout=0.1",
            "training.label_dropout…dataset digits has none",
        ),
        ("train_guide", "+training.weighting=fid", "unknown key training.weighting"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(
    digits, tmp_path, command, words, said
):
    finished = call(tmp_path, command, *SETTINGS, f"data={digits}", *words.split())
    refused(finished, 2, *said.split("…"))
    assert list(tmp_path.iterdir()) == []


def test_the_settings_of_a_training_must_match_the_prepared_dataset(tmp_path):
    """Settings that are not given are read from the prepared dataset."""
    larger = ("dataset.image_size=16", "dataset.filter=box", "output=larger.h5")
    succeeded(call(tmp_path, "prepare", *larger, "dataset.name=larger", "dataset.flip=true"))
    finished = call(tmp_path, "train", *SETTINGS, "dataset=digits", "data=larger.h5")
    refused(finished, 2, "larger.h5", "has image_size 16", "or give dataset.image_size=16")
    short = ("training.steps=1", "training.batch_size=2", "data=larger.h5")
    succeeded(call(tmp_path, "train", *SETTINGS, *short))
    dataset = read_manifest(tmp_path / "model", ModelManifest).settings.dataset
    assert (dataset.name, dataset.image_size) == ("larger", 16)
    assert (dataset.flip, dataset.filter) == (True, "box")


def with_one_bit_flipped(path):
    """Flip a bit in a tensor, which torch.load alone does not detect."""
    content = bytearray(path.read_bytes())
    state = torch.load(path)
    name, tensor = next((n, t) for n, t in state["state"]["network"].items() if t.numel() > 99)
    index = content.index(tensor.numpy().tobytes()) + 100
    content[index] ^= 1
    path.write_bytes(content)
    assert not torch.equal(torch.load(path)["state"]["network"][name], tensor)


@pytest.mark.parametrize("damage", [with_one_bit_flipped, lambda path: os.truncate(path, 5000)])
def test_a_damaged_checkpoint_is_replaced_by_the_previous_one(trained, digits, damage):
    before = weights(trained)
    newest, settings = checkpoint(trained, 12), (*SETTINGS, f"data={digits}")
    damage(newest)
    shutil.rmtree(newest.parents[1] / "model")
    said = succeeded(call(trained, "train", *settings)).stdout
    assert f"{newest.name}: damaged and renamed to checkpoint-00000012.damaged; step 8 is" in said
    assert "resuming from step 8" in said
    assert weights(trained) == before
    assert newest.exists()
    for step in (8, 12):
        damage(checkpoint(trained, step))
    files = files_below(trained)
    refused(
        call(trained, "train", *settings), 2, "12.pt: damaged, and so are all other checkpoints"
    )
    assert files_below(trained) == files


# --- faults -------------------------------------------------------------------------------------


def test_a_diverging_training_ends_with_one_line(digits, tmp_path):
    diverging = ("training.learning_rate=1e30", "training.warmup_steps=0", "training.log_every=3")
    finished = call(tmp_path, "train", *SETTINGS, f"data={digits}", *diverging)
    refused(finished, 1, "at step 1;", "Lower training.learning_rate")
    assert not (tmp_path / "model").exists()
    assert not list(tmp_path.glob("runs/*/checkpoints/*"))


def test_a_small_network_trains_in_one_thread(digits, tmp_path, monkeypatch):
    """With one thread, a busy machine does not slow the training down, and the weights equal the
    weights of workflow jobs."""
    before = torch.get_num_threads()
    settings = (*SETTINGS, f"data={digits}", "training.steps=1", "runs=runs")
    torch.set_num_threads(3)
    try:
        printed = succeeded(call(tmp_path, "train", *settings)).stdout
        assert torch.get_num_threads() == 3
        monkeypatch.setattr(training_run, "WORK_OF_A_THREAD", 1e4)
        more = succeeded(call(tmp_path, "train", *settings, "runs=more")).stdout
    finally:
        torch.set_num_threads(before)
    where = r"^training model for 1 steps on CPU \(\w+, {} threads? of \d+\), in {}/\S+; about \d"
    assert re.search(where.format(1, "runs"), printed, re.MULTILINE)
    assert re.search(where.format(3, "more"), more, re.MULTILINE)


def test_overwriting_a_large_dataset_during_its_training_is_an_error(digits, tmp_path, monkeypatch):
    """Datasets above `RESIDENT_BYTES` stay on disk, and `cp` writes into the open file."""
    data = shutil.copy(digits, tmp_path / "large.h5")
    shutil.copy(digits.with_suffix(".json"), tmp_path / "large.json")

    def train_and_overwrite(*arguments):
        loop.train(*arguments)
        with data.open("r+b") as file:
            file.seek(-100, os.SEEK_END)
            file.write(b"other pixels")

    monkeypatch.setattr(batches, "RESIDENT_BYTES", 0)
    monkeypatch.setattr(training_run, "train", train_and_overwrite)
    finished = call(tmp_path, "train", *SETTINGS, f"data={data}", "training.steps=1")
    refused(
        finished, 2, "large.h5: overwritten during the training", "its checkpoints are in runs/"
    )
    assert not (tmp_path / "model").exists()
    shutil.copy(digits, data)
    monkeypatch.setattr(training_run, "train", loop.train)
    again = succeeded(call(tmp_path, "train", *SETTINGS, f"data={data}", "training.steps=1"))
    assert "step 1/1" in again.stdout, "it starts at the first step"
