"""Networks that were trained in Python: `psld.save`, and commands that use the saved models."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import psld
from psld.data.store import described_dataset
from psld.models.build import build, build_process
from psld.models.manifest import read_manifest
from psld.models.settings import ModelSettings
from psld.training.files import HISTORY
from psld.utils.errors import UserError
from tests.commands import TINY, call, refused, run, succeeded
from tests.hub import empty_hub
from tests.parts.own import LAYERS, NETWORK

WORDS = ["network=mynets:Mixer", "network.width=4", "training.steps=7", "training.batch_size=3"]


REFUSED_AND_TRUSTED = """
import contextlib, sys
from psld.commands.main import main
with contextlib.suppress(SystemExit):
    main()
sys.argv.append("trust=true")
main()
"""
"""Runs a command twice in one process, first without and then with trust=true."""


@pytest.fixture
def folder(tmp_path, digits, monkeypatch) -> Path:
    """The working folder, with a custom network and the prepared digits."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mynets.py").write_text(NETWORK)
    (tmp_path / "mylayers.py").write_text(LAYERS)
    (tmp_path / "data").mkdir()
    for end in ("h5", "json", "digest"):
        shutil.copy(digits.with_suffix(f".{end}"), tmp_path / f"data/digits.{end}")
    return tmp_path


@pytest.fixture
def network(folder):
    from mynets import Net

    torch.manual_seed(0)
    return Net(2, 2, 4).eval()


def test_a_network_of_ones_own_is_a_model_for_commands(folder, network, tmp_path_factory):
    history = [{"step": 7, "time": 1.5, "loss": 0.5}]
    given = [history[0] | {"loss": torch.tensor(0.5)}]
    psld.save("models/mine/net", network, WORDS, given)
    model = psld.load("mine/net")
    manifest, digest = read_manifest("models/mine/net"), (folder / "data/digits.digest").read_text()
    assert (manifest.name, manifest.step, manifest.images_seen) == ("net", 7, 21)
    assert manifest.identity()["saved"]
    assert manifest.dataset_digest == digest.strip()
    assert json.loads(Path("models/mine/net", HISTORY).read_text())["entries"] == history
    words = {"sampler": "em", "steps": 3}
    images = psld.sample(model.process, network, (4, 1, 8, 8), **words)
    assert torch.equal(model.sample(4, **words), images)
    # In another folder, the code must be trusted.
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(folder / "models", elsewhere / "models")
    shutil.copytree(folder / "data", elsewhere / "data")
    sample = ("sample", "model=mine/net", "sampler=em", "sampler.steps=3", "shard_size=4")
    succeeded(call(elsewhere, *sample, "output=samples", "npz=x.npz", "trust=true"))
    assert torch.equal(psld.load_images(elsewhere / "x.npz"), images)
    measure = ("likelihood", "model=mine/net", "images=2", "tolerance=0.5", "output=nll.json")
    twice = run(elsewhere, [sys.executable, "-c", REFUSED_AND_TRUSTED, *measure])
    refused(twice, 0, "trust=true runs the copy in models/mine/net/parts")
    assert (elsewhere / "nll.json").exists()
    with empty_hub(folder):
        succeeded(call(folder, "push", "models/mine/net", "me/net"))


@pytest.mark.slow
def test_the_code_of_a_guide_is_trusted_by_a_word(folder, model, tmp_path_factory):
    words = (*TINY, "network=mynets:Mixer", "training.steps=1", "data=data/digits.h5")
    words = [word for word in words if not word.startswith("network.")]
    succeeded(call(folder, "train_guide", *words, "output=guide", "device=cpu"))
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree("guide", elsewhere / "guide")
    shutil.copytree(model, elsewhere / "model")
    program = (
        "import psld; model = psld.load('model'); options = dict(sampler='em', steps=2, label=3)\n"
        "try: model.sample(2, guide='guide', **options)\n"
        "except psld.library.UserError as error: print(error)\n"
        "print(model.sample(2, guide='guide', **options, trust=True).shape)"
    )
    refusal, shape = succeeded(run(elsewhere, [sys.executable, "-c", program])).stdout.splitlines()
    assert "trust=true runs the copy in guide/parts/" in refusal
    assert shape == "torch.Size([2, 1, 8, 8])"


def test_the_code_that_was_read_is_saved_whatever_its_file_is_now(folder):
    """This can happen in a notebook, if the user edits the file while the network trains."""
    # Add a comment, so that no other test of this process has read the same code.
    network, layers = (f"{text}\nOWN = True\n" for text in (NETWORK, LAYERS))
    Path("mynets.py").write_text(network)
    Path("mylayers.py").write_text(layers)
    settings = ModelSettings(
        dataset=described_dataset(Path("data/digits.h5")),
        process={"kind": "psld", "gamma": 0.02},
        network={"kind": "mynets:Mixer", "width": 4},
        training={"steps": 7, "batch_size": 3},
    )
    built = build(settings, build_process(settings)).eval()
    edited = network.replace("width: int = 8", "width: int = 9")
    Path("mynets.py").write_text(edited)
    psld.save("mine", built, settings)
    [kept] = Path("mine/parts").iterdir()
    assert (kept / "mynets.py").read_text() == network != edited
    assert (kept / "mylayers.py").read_text() == layers


def test_a_model_that_was_trained_on_keeps_its_settings(folder, model):
    loaded = psld.load(model)
    before = read_manifest(model)
    assert "saved" not in before.model_dump()
    with torch.no_grad():
        next(loaded.network.parameters()).add_(1)
    psld.save("mine", loaded.network, loaded.settings)
    after = read_manifest("mine")
    assert (after.settings, after.dataset_digest) == (before.settings, before.dataset_digest)
    assert after.weights_sha256 != before.weights_sha256
    assert json.loads(Path("mine", HISTORY).read_text())["entries"] == []


def test_the_model_that_a_saved_one_started_from_is_noted(folder, network):
    psld.save("models/mine/base", network, WORDS)
    psld.save("models/mine/next", network, [*WORDS, "init.model=mine/base"])
    base, after = (read_manifest(f"models/mine/{name}") for name in ("base", "next"))
    assert after.init == {"model": "mine/base", "weights_sha256": base.weights_sha256}
    shutil.rmtree("models/mine/base")
    loaded = psld.load("mine/next")
    psld.save("again", loaded.network, loaded.settings)
    assert read_manifest("again").init == after.init


def test_what_cannot_be_saved_is_one_line_and_changes_nothing(folder, network):
    def refused(said, *given, **options):
        with pytest.raises(UserError, match=rf"^[^\n]*{said}[^\n]*$"):
            psld.save("mine", *given, **options)

    psld.save("mine", network, WORDS)
    files = {path: path.read_bytes() for path in Path("mine").rglob("*.*")}
    refused(
        "mine: has weights from a training here; set replace=true to replace them", network, WORDS
    )
    with pytest.raises(RuntimeError, match=r"size mismatch for a\.weight"):
        psld.save("mine", network, [*WORDS, "network.width=5"])
    refused(r"save\(\): unknown key network\.widht", network, [*WORDS, "network.widht=5"])
    refused("in training mode", type(network)(2, 2, 4), WORDS)

    class Other(type(network)):
        def forward(self, z, t):
            return 2 * super().forward(z, t)

    refused(
        "changes when the module is rebuilt and its weights are loaded",
        Other(2, 2, 4).eval(),
        WORDS,
    )
    absent = [*WORDS, "init.model=absent"]
    refused("absent: no such model .*; this training reads it", network, absent, replace=True)
    for entry, said in (
        ({"step": 1}, r"save\(\): history: entries\.0\.time is missing"),
        ({"step": 1, "time": 1, "loss": torch.nan}, "loss: Input should be a finite number"),
    ):
        refused(said, network, WORDS, history=[entry], replace=True)
    refused(
        "settings is a NoneType; the settings of a model or overrides of psld train", network, None
    )
    assert {path: path.read_bytes() for path in Path("mine").rglob("*.*")} == files
    psld.save("mine", network, [*WORDS, "training.steps=8"], replace=True)
    assert read_manifest("mine").step == 8


def test_classes_of_a_network_of_ones_own(folder):
    class Conditional(torch.nn.Module):
        def forward(self, z, t, label=None):
            seen.append(label)
            return z / 2 if label is None else z / 2 + label[:, None, None, None]

    from psld.diffusion.settings import PSLDSettings

    process, network, seen = PSLDSettings(kind="psld", gamma=0.02).build(), Conditional().eval(), []
    given = {"sampler": "em", "steps": 4, "raw": True}

    def sampled(n=3, **options):
        return psld.sample(process, network, (n, 1, 8, 8), **given, **options)

    plain, mixed = sampled(), sampled(label=[0, 2], scale=1.0)
    for two in (np.int64(2), torch.tensor(2), torch.tensor([2])):
        assert torch.equal(mixed[1], sampled(label=two, scale=1.0)[1])
    assert torch.equal(mixed[0], plain[0]), "class 0 changes nothing here"
    assert not torch.allclose(mixed[1], plain[1])
    assert not torch.allclose(mixed[1], sampled(label=2, scale=2.0)[1])
    assert next(each.tolist() for each in seen if each is not None) == [0, 2, 0]
    for wrong, said in (
        ({"label": "two"}, "label: Input should be"),
        ({"scale": 2}, "give a label"),
    ):
        with pytest.raises(UserError, match=said):
            sampled(**wrong)
    with pytest.raises(UserError, match="guidance: label and guide also choose a guidance"):
        sampled(label=1, guidance={"kind": "classifier-free", "label": 2})
