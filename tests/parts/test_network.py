"""A network of one's own, from a file outside the checkout: by hand and in a grid."""

import json
import re
from pathlib import Path

import pytest

from psld.config.parts import UnknownPart, importing_nothing, parts_in
from psld.diffusion.samplers import SamplerSettings
from psld.grid.cache import load_grid
from psld.training.manifest import read_manifest
from tests.commands import call, command, refused, run, succeeded
from tests.parts.own import edit, with_network, write

RECIPE = (
    "training.steps=6",
    "training.checkpoint_every=3",
    "training.preview_every=null",
    "wandb.mode=disabled",
)


@pytest.fixture
def folder(tmp_path):
    return with_network(tmp_path)


@pytest.fixture
def training(digits):
    return ("network=mynets:Mixer", f"data={digits}", "name=mine", *RECIPE)


def train(folder: Path, *words: str) -> str:
    return succeeded(call(folder, "train", *words)).stdout


def digest_of_weights(folder: Path) -> str:
    return read_manifest(folder / "models/by-hand/mine").weights_sha256


def test_width_and_kind_in_any_order(folder, training):
    train(folder, "network.width=4", *training)
    network = json.loads((folder / "models/by-hand/mine/manifest.json").read_text())["settings"]
    assert (network["network"]["kind"], network["network"]["width"]) == ("mynets:Mixer", 4)


def test_file_of_a_group_replaces_a_part(folder, training):
    (folder / "configs/network").mkdir(parents=True)
    (folder / "configs/network/mixer.yaml").write_text("kind: mynets:Mixer\nwidth: 5\n")
    train(folder, *training[1:], "network=mixer")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert read_manifest("models/by-hand/mine").settings.network.width == 5


def test_an_edit_trains_again_and_a_comment_does_not(folder, training):
    train(folder, *training)
    edit(folder / "mynets.py", '"""Convolutions."""', "# Convolutions.")
    assert "training" not in train(folder, *training)
    edit(folder / "mylayers.py", "padding=1", "padding='same', bias=False")
    assert "replaces the weights of another training" in train(folder, *training)


def test_lives_and_samples_elsewhere_take_the_copy(folder, training, tmp_path_factory):
    """After an edit, a training with the earlier code goes on, and its model is sampled."""
    train(folder, *training)
    digest, elsewhere = digest_of_weights(folder), tmp_path_factory.mktemp("elsewhere")
    (folder / "models").rename(elsewhere / "models")
    words = ("model=by-hand/mine", "sampler.steps=3", "shard_size=2", "output=samples")
    line = refused(run(elsewhere, command("sample", *words)), 2)
    assert "by-hand/mine: mynets:Mixer: its file is missing or has changed" in line
    assert "trust=true runs the copy in models/by-hand/mine/parts" in line
    succeeded(call(elsewhere, "sample", *words, "trust=true"))
    assert digest_of_weights(elsewhere) == digest


def test_only_read_it_is_unknown_and_has_its_identity(folder, training, monkeypatch):
    train(folder, *training)
    monkeypatch.chdir(folder)
    known = read_manifest("models/by-hand/mine").settings
    with importing_nothing():
        unknown = read_manifest("models/by-hand/mine").settings
    assert [part for part in parts_in(unknown) if isinstance(part, UnknownPart)]
    assert unknown.identity() == known.identity()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("network=mynets:Mixed", r"network: mynets\.py: defines no class Mixed"),
        ("network=nonets:Mixer", r"network: nonets:Mixer: no module nonets"),
        ("network=os:Mixer", r"network: os:Mixer: os is of Python's own library"),
        ("network=psld.networks.settings:NetworkSettings", r"psld.s own parts go by a kind"),
        (
            "network=mynets:Net",
            r"mynets:Net: no network: it does not subclass psld\.parts",
        ),
        ("network.widht=3", r"unknown key network\.widht \(is network\.width meant\?\)"),
        ("network.width=x", r"network\.width: .*valid integer"),
    ],
)
def test_a_typing_error_is_one_line(folder, training, word, message):
    line = refused(call(folder, "train", *training, word), 2)
    assert re.search(message, line)
    assert not (folder / "runs").exists()


BUILDS = {
    "return 3": "build returns int, not a torch.nn.Module",
    "return Net": "build returns type, not a torch.nn.Module",
    "return Net(in_channels, 7, self.width)": "gives 2×7×8×8 for 2 images; 2×2×8×8 is needed",
    "return Net(5, out_channels, self.width)": "for z of 2×2×8×8: RuntimeError",
    "raise KeyError('x')": "build: KeyError: 'x'",
}


@pytest.mark.parametrize("build", BUILDS)
def test_a_wrong_build_is_one_line_before_the_training(folder, training, build):
    edit(folder / "mynets.py", "return Net(in_channels, out_channels, self.width)", build)
    line = refused(call(folder, "train", *training), 2)
    assert f"network: mynets:Mixer: {BUILDS[build]}" in line
    assert not (folder / "runs").exists()


def test_a_setting_without_a_type_is_one_line(folder, training):
    """By a message of pydantic, which says when it has changed."""
    edit(folder / "mynets.py", "    width: int = 8", "    width = 8")
    line = refused(call(folder, "train", *training), 2)
    assert "mynets.py: width: a setting needs a type, such as width: int = 8" in line


def test_help_shows_its_fields(folder, training):
    text = succeeded(call(folder, "train", "network=mynets:Mixer", "--help")).stdout
    assert "    width: 8\n          Channels.\n" in text
    assert "code:" not in text


def test_sampler_of_ones_own_in_a_grid_changes_with_its_code(folder, monkeypatch):
    monkeypatch.chdir(folder)
    write(
        folder,
        mysamplers="""
        from psld.parts import TimeGridSampler

        class Slow(TimeGridSampler):
            speed: int = 1
        """,
    )
    content = {"integrator": "mysamplers:Slow", "striding": "edm", "steps": 4}
    before = SamplerSettings.model_validate(content)
    edit(folder / "mysamplers.py", "speed: int = 1", "speed: int = 1\n    '''About it.'''")
    assert SamplerSettings.model_validate(content).identity() == before.identity()
    edit(folder / "mysamplers.py", "(TimeGridSampler):", "(TimeGridSampler):\n    x: int = 0")
    assert SamplerSettings.model_validate(content).code != before.code


def test_grid_is_resolved_again_after_an_edit(folder, digits):
    (folder / "configs/grid").mkdir(parents=True)
    (folder / "configs/grid/own.yaml").write_text(
        """
        metric: fd-pixels
        samples: 10
        shard_size: 10
        batch_size: 10
        gallery: em-3
        models: {mine: ["network=mynets:Mixer", "training.steps=6"]}
        samplers: {em: {overrides: [sampler=em], budget: sampler.steps}}
        tables: {t: {title: t, headings: [m], cell: {sampler: em, model: mine},
          columns: [{label: "3", budget: "3"}], rows: [{label: [m]}]}}
        """
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        before = load_grid("own").models["mine"].digest
        edit(folder / "mylayers.py", "\n", "\n# A comment.\n")
        assert load_grid("own").models["mine"].digest == before
        edit(folder / "mynets.py", "relu", "tanh")
        assert load_grid("own").models["mine"].digest != before
