"""Push models to a stand-in for the Hub, and load them from it."""

import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

import psld
from psld.models.manifest import FILES, read_manifest
from psld.sampling.shards import Shard
from psld.utils.errors import RunError, UserError
from tests.commands import TINY, call, refused, succeeded
from tests.hub import Hub, empty_hub

FEW = {"sampler": "few", "steps": 2}


@pytest.fixture
def hub(tmp_path):
    with empty_hub(tmp_path / "cache") as server:
        yield server


@pytest.fixture
def folder(model, tmp_path) -> Path:
    """A folder with a copy of the model."""
    shutil.copytree(model, tmp_path / "models/mine/psld")
    return tmp_path


def push(folder: Path, *words: str) -> str:
    """Push a model and return the printed address."""
    printed = succeeded(call(folder, "push", "mine/psld", "me/digits", *words)).stdout
    return re.fullmatch(r'psld\.load\("(hf://me/digits@[0-9a-f]{40})"\)\n', printed)[1]


def card_of(hub: Hub) -> str:
    return hub.repositories["me/digits"][hub.newest("me/digits")]["README.md"].decode()


def test_a_pushed_model_is_loaded_and_sampled_like_the_local_one(
    hub, folder, vp_sde_model, monkeypatch
):
    monkeypatch.chdir(folder)  # Change the folder, because the checkout may have the dataset.
    local = psld.load(folder / "models/mine/psld")
    address = push(folder)
    assert "license: unknown" in card_of(hub), "none is made up"
    assert "private" not in card_of(hub)
    with pytest.raises(UserError, match=r"run psld prepare dataset=digits, or give start=FILE"):
        psld.load(address).sample(4, **FEW)
    images = psld.load(push(folder, "start=true")).sample(4, **FEW, seed=1)
    assert torch.equal(images, local.sample(4, **FEW, seed=1)), "its start travels, too"
    assert "reconstructed from two starts" in card_of(hub)

    sample = ("sampler=multistep", "sampler.steps=2", "shard_size=2", "shards=1", "device=cpu")
    succeeded(call(folder, "sample", f"model={address}", *sample, "output=samples"))
    shard = Shard.load(folder / "samples/00000.safetensors")
    assert shard.origin.weights_sha256 == local.weights_sha256

    shutil.copytree(vp_sde_model, folder / "models/mine/psld", dirs_exist_ok=True)
    assert push(folder, "license=cc-by-4.0") != address
    assert "license: cc-by-4.0" in card_of(hub)
    assert psld.load("hf://me/digits").process.blocks == 1, "the newest"
    assert psld.load(address).weights_sha256 == local.weights_sha256
    hub.status = 500
    assert psld.load(address).weights_sha256 == local.weights_sha256, "from the cache"


def test_a_training_starts_from_a_model_of_the_hub(hub, folder, digits):
    address = push(folder)
    words = (*TINY, f"data={digits}", "training.steps=1", "name=tuned", f"init.model={address}")
    assert f"starting from {address}\n" in succeeded(call(folder, "train", *words)).stdout
    sha256 = read_manifest(folder / "models/mine/psld").weights_sha256
    init = read_manifest(folder / "models/by-hand/tuned").init
    assert init == {"model": address, "weights_sha256": sha256}


@pytest.mark.parametrize("name", [name for name in FILES if name != "history.json"])
def test_damage_is_detected_in_upload_and_download(hub, folder, name):
    path = folder / "models/mine/psld" / name
    whole = path.read_bytes()
    broken = whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]
    path.write_bytes(broken)
    refused(call(folder, "push", "models/mine/psld", "me/digits"), 2, name)
    assert not hub.repositories, "nothing is uploaded"
    path.write_bytes(whole)
    push(folder)
    hub.commit("me/digits", {name: broken})
    with pytest.raises(UserError, match=name):
        psld.load("hf://me/digits").sample(2, **FEW)


@pytest.mark.parametrize(
    ("model", "status", "kind", "words"),
    [
        ("hf://me/a--b", 200, UserError, "hf://me/a--b: .*--"),
        (f"hf://me/bert@{'0' * 40}", 200, UserError, "Revision Not Found"),
        ("hf://me/bert", 200, UserError, r"/bert/|models--me--bert.*manifest\.json: no such file"),
        ("hf://me/bert", 403, UserError, "hf://me/bert: .*403.*; log in .*HF_TOKEN"),
        ("hf://me/bert", 500, RunError, "hf://me/bert: .*500"),
    ],
)
def test_a_failed_download_is_reported_in_one_line(hub, model, status, kind, words):
    hub.commit("me/bert", {"config.json": b"{}"})
    hub.status = status
    with pytest.raises(kind, match=words) as error:
        psld.load(model)
    assert "\n" not in str(error.value)


def test_a_failed_push_is_reported_in_one_line(hub, folder, monkeypatch):
    words = ("push", "models/mine/psld")
    refused(call(folder, *words), 2, "usage: psld push FOLDER REPOSITORY")
    refused(call(folder, *words, "me/a--b"), 2, "me/a--b: ", "--")
    hub.status = 403
    refused(call(folder, *words, "me/digits"), 2, "me/digits: ", "403", "HF_TOKEN")
    hub.status = 0
    refused(call(folder, *words, "me/digits"), 1, "me/digits: ", "without")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused(call(folder, *words, "me/digits"), 2, "pip install 'psld[hub]'")
    with pytest.raises(UserError, match=r"hf://me/digits: .*pip install 'psld\[hub\]'"):
        psld.load("hf://me/digits")
