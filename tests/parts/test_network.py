"""A custom network from a file outside of the checkout, in single commands and in a grid."""

import contextlib
import re
from pathlib import Path

import pytest

from psld.config.parts import Part
from psld.config.settings import groups_of
from psld.models.manifest import read_manifest
from psld.report.plan import gigaflops
from tests.commands import call, command, fresh_modules, refused, run, succeeded
from tests.grid.mine import load, with_models
from tests.parts.own import GUIDANCE, edit, with_network, write

RECIPE = ("training.steps=1", "training.preview_every=null", "wandb.mode=disabled")


@pytest.fixture
def folder(tmp_path):
    return with_network(tmp_path)


@pytest.fixture
def training(digits):
    return ("network=mynets:Mixer", f"data={digits}", "name=mine", *RECIPE)


def train(folder: Path, *words: str) -> str:
    return succeeded(call(folder, "train", *words)).stdout


def test_a_network_is_selected_by_overrides_and_by_a_config(folder, training, monkeypatch):
    (folder / "configs/network").mkdir(parents=True)
    (folder / "configs/network/mixer.yaml").write_text("kind: mynets:Mixer\nwidth: 5\n")
    monkeypatch.chdir(folder)
    for words, width in (
        (("network.width=4", *training), 4),
        ((*training[1:], "network=mixer"), 5),
        ((*training[1:], "network={kind: mynets:Mixer, width: 6}"), 6),
    ):
        train(folder, *words)
        network = read_manifest("models/by-hand/mine").settings.network
        assert (network.kind, network.width) == ("mynets:Mixer", width)
    help_text = succeeded(call(folder, "train", "network=mynets:Mixer", "--help")).stdout
    assert "    width: 8\n          Channels.\n" in help_text
    assert "code:" not in help_text


def test_an_edit_of_the_code_trains_again_but_a_comment_does_not(folder, training):
    train(folder, *training)
    edit(folder / "mynets.py", '"""Convolutions."""', "# Convolutions.")
    assert "training" not in train(folder, *training)
    edit(folder / "mylayers.py", "padding=1", "padding='same', bias=False")
    assert "replaces the weights of another training" in train(folder, *training)


def test_without_its_code_a_network_is_compared_and_if_trusted_sampled(
    folder, training, tmp_path_factory, monkeypatch
):
    train(folder, *training)
    with contextlib.chdir(folder):
        known = read_manifest("models/by-hand/mine")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (folder / "models").rename(elsewhere / "models")
    monkeypatch.chdir(elsewhere)
    settings = read_manifest("models/by-hand/mine").settings
    assert [part.kind for part in groups_of(Part, settings) if part.is_data] == ["mynets:Mixer"]
    assert settings.identity() == known.settings.identity()
    words = ("model=by-hand/mine", "sampler.steps=3", "shard_size=2", "output=samples")
    line = refused(run(elsewhere, command("sample", *words)), 2)
    assert "models/by-hand/mine: its network mynets:Mixer has code " in line
    assert "no module mynets here; trust=true runs the copy in models/by-hand/mine/parts" in line
    succeeded(call(elsewhere, "sample", *words, "trust=true"))
    assert read_manifest("models/by-hand/mine").weights_sha256 == known.weights_sha256


OUTER = """
from mynets import Mixer

from psld.parts import Network


class Outer(Network):
    one: Mixer = Mixer(width=3)
    two: Network = Mixer(width=4)

    def build(self, *shape):
        return self.one.build(*shape)
"""


def test_nested_parts_use_the_code_of_the_same_version(folder, training):
    write(folder, outer=OUTER)
    train(folder, "network=outer:Outer", *training[1:])
    edit(folder / "mynets.py", "import torch\n", "import torch\n\nUNUSED = 1\n")
    words = ("model=by-hand/mine", "sampler.steps=3", "shard_size=2", "output=samples")
    succeeded(run(folder, command("sample", *words, "trust=true")))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("network=os:Mixer", r"network: os:Mixer: os is the name of a package that psld needs"),
        ("network=scipy.mine:Mixer", r"scipy is the name of a package that psld needs; rename"),
        ("network=mynets.Mixer", r"network=mynets.Mixer: no such network"),
        ("network=absent:Mixer", r"absent:Mixer: there is no module absent in this folder"),
        ("network=mynets:Mixxer", r"mynets\.py: defines no class Mixxer"),
        ("network=mynets:Net", r"mynets:Net: no network: it does not subclass psld\.parts"),
        ("network.widht=3", r"unknown key network\.widht \(is network\.width meant\?\)"),
    ],
)
def test_a_misspelled_setting_is_refused_in_one_line(folder, training, word, message):
    line = refused(call(folder, "train", *training, word), 2)
    assert re.search(message, line)
    assert not (folder / "runs").exists()


def test_in_a_grid_models_and_cells_depend_on_the_code_of_their_parts(folder, monkeypatch):
    monkeypatch.chdir(write(folder, pull=GUIDANCE))
    (folder / "configs/grid").mkdir(parents=True)
    content = with_models({"mine": ["network=mynets:Mixer"]})
    pull = ["sampler=em", "guidance@sampler.guidance=pull:Pull", "sampler.guidance.strength=3"]
    content["samplers"] = {"em": {"overrides": pull, "budget": "sampler.steps"}}

    def digests(file: str, old: str, new: str) -> tuple[str, str]:
        edit(folder / file, old, new)
        with fresh_modules():
            grid = load(folder / "configs", content)
            cell = grid.cells["mine/em-10"]
            assert (cell.sampler.settings.guidance.strength, cell.datasets) == (3, {})
            assert gigaflops(grid.models["mine"]) > 0
        return grid.models["mine"].digest, cell.digest

    model, cell = digests("mylayers.py", "\n", "\n# A comment.\n")
    assert digests("pull.py", "\n\n\nclass", "\n\n\n# A comment.\nclass") == (model, cell)
    same, other = digests("pull.py", "/ z[0, 0]", "* z[0, 0]")
    assert (same, other != cell) == (model, True)
    changed, changed_cell = digests("mynets.py", "relu", "tanh")
    assert (changed != model, changed_cell != other) == (True, True)
