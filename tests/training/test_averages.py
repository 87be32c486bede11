"""Further averages of a training: each equals the model of a separate training."""

import shutil

import pytest

import psld.training.loop as loop
from psld.models.manifest import read_manifest
from psld.utils.errors import RunError
from tests.commands import TINY, call, files_below, refused, run_directory, succeeded
from tests.parts.own import write

SHORT = "averages.short={kind: ema, decay: 0.5}"
READS = """
from psld.networks.forward import EMA
from psld.parts import Average, ModelRead


class Tied(Average):
    teacher: ModelRead

    def build(self, network):
        return EMA(network, 0.5)
"""


@pytest.fixture
def train(digits, tmp_path):
    def train(*words):
        steps = "training.steps=4", "training.checkpoint_every=2", f"data={digits}"
        return call(tmp_path, "train", *TINY, *steps, *words)

    return train


def sha256(folder, name):
    return read_manifest(folder / f"models/by-hand/{name}").weights_sha256


def killed_at(step, monkeypatch):
    optimize = loop.optimize

    def stop(state, *rest):
        if state.step == step:
            raise RunError("killed")
        return optimize(state, *rest)

    monkeypatch.setattr(loop, "optimize", stop)


def test_a_further_average_equals_a_separate_training_even_after_a_kill(
    train, tmp_path, monkeypatch
):
    """A later training with the name and the settings of the average is already finished."""
    alone = ("name=short", "training.average={kind: ema, decay: 0.5}")
    succeeded(train(*alone, "runs=others"))
    expected = sha256(tmp_path, "short")
    with monkeypatch.context() as patch:
        killed_at(3, patch)
        refused(train("name=base", SHORT), 1, "killed")
    assert "resuming from step 2" in succeeded(train("name=base", SHORT)).stdout
    killed_at(0, monkeypatch)
    assert "training models" not in succeeded(train(*alone)).stdout
    assert sha256(tmp_path, "short") == expected != sha256(tmp_path, "base")


@pytest.mark.parametrize("before", [(), ("averages.short={kind: ema, decay: 0.6}",)])
def test_a_training_that_started_without_an_average_does_not_export_it(
    train, tmp_path, monkeypatch, before
):
    with monkeypatch.context() as patch:
        killed_at(3, patch)
        refused(train("name=base", *before), 1, "killed")
    said = succeeded(train("name=base", SHORT)).stdout
    assert (
        "averages.short: this training started without this average; train short separately" in said
    )
    assert not list((tmp_path / "runs").glob("short-*"))
    assert run_directory(tmp_path).name.startswith("base-")


def test_a_wrong_average_is_refused_before_the_training(train):
    refused(train("averages.short=emma"), 2, "averages.short: no average 'emma'")
    refused(train("averages.sh/ort=ema"), 2, "averages")


def test_the_model_of_a_separate_training_is_not_replaced(train, tmp_path):
    alone = ("name=short", "training.average={kind: ema, decay: 0.5}", "training.micro_batch=1")
    succeeded(train(*alone))
    before = files_below(run_directory(tmp_path))
    succeeded(train("name=base", SHORT))
    [mine] = (tmp_path / "runs").glob("short-*")
    assert files_below(mine) == before


def test_a_damaged_model_of_an_average_is_trained_again(train, tmp_path):
    succeeded(train("name=base", SHORT))
    [made] = (tmp_path / "runs").glob("short-*/model/weights.safetensors")
    whole = made.read_bytes()
    made.write_bytes(whole[:-4] + b"mine")
    said = succeeded(train("name=short", "training.average={kind: ema, decay: 0.5}")).stdout
    assert "training models" in said
    assert made.read_bytes() == whole


def test_an_average_that_reads_a_model_does_not_change_the_run_directory(train, tmp_path):
    write(tmp_path, reads=READS)
    succeeded(train("name=base"))
    succeeded(train("name=first"))
    [run] = (tmp_path / "runs").glob("base-*")
    words = "averages.tied={kind: reads:Tied, teacher: by-hand/first}"
    succeeded(train("name=base", words))
    assert list((tmp_path / "runs").glob("base-*")) == [run]


def test_restarting_a_finished_training_changes_no_file(train, tmp_path, monkeypatch):
    """The manifest describes how the weights were trained, not a later run on another device."""
    words = "name=base", SHORT
    succeeded(train(*words))
    (tmp_path / "models/by-hand/base/manifest.json").unlink()
    kept = files_below(tmp_path / "runs")
    monkeypatch.setattr("psld.utils.device.git_revision", lambda: "another")
    succeeded(train(*words))
    assert files_below(tmp_path / "runs") == kept
    assert sha256(tmp_path, "base")
    assert "train other separately" in train("name=base", "averages.other=ema").stdout
    [made] = (tmp_path / "runs").glob("short-*")
    shutil.rmtree(made)
    succeeded(train(*words))
    assert (made / "model/manifest.json").exists()
