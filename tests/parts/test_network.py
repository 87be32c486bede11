"""A network of one's own, from a file outside the checkout: by hand and in a grid."""

import contextlib
import re
from pathlib import Path

import pytest

from psld.config.parts import UnknownPart, importing_nothing, parts_in
from psld.report.plan import gigaflops
from psld.training.manifest import read_manifest
from tests.commands import call, command, refused, run, succeeded
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


def test_it_is_chosen_and_set_by_words_and_by_the_file_of_a_group(folder, training, monkeypatch):
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


def test_an_edit_trains_again_and_a_comment_does_not(folder, training):
    train(folder, *training)
    edit(folder / "mynets.py", '"""Convolutions."""', "# Convolutions.")
    assert "training" not in train(folder, *training)
    edit(folder / "mylayers.py", "padding=1", "padding='same', bias=False")
    assert "replaces the weights of another training" in train(folder, *training)


def test_where_its_code_is_not_it_is_compared_and_sampled_if_it_is_trusted(
    folder, training, tmp_path_factory, monkeypatch
):
    train(folder, *training)
    with contextlib.chdir(folder):
        known = read_manifest("models/by-hand/mine")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (folder / "models").rename(elsewhere / "models")
    monkeypatch.chdir(elsewhere)
    with importing_nothing():
        unknown = read_manifest("models/by-hand/mine").settings
    assert [part for part in parts_in(unknown) if isinstance(part, UnknownPart)]
    assert unknown.identity() == known.settings.identity()
    words = ("model=by-hand/mine", "sampler.steps=3", "shard_size=2", "output=samples")
    line = refused(run(elsewhere, command("sample", *words)), 2)
    assert "by-hand/mine: mynets:Mixer: its file is missing or has changed" in line
    assert "trust=true runs the copy in models/by-hand/mine/parts" in line
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


def test_the_parts_of_a_part_have_the_code_of_its_version(folder, training):
    write(folder, outer=OUTER)
    train(folder, "network=outer:Outer", *training[1:])
    edit(folder / "mynets.py", "import torch\n", "import torch\n\nUNUSED = 1\n")
    words = ("model=by-hand/mine", "sampler.steps=3", "shard_size=2", "output=samples")
    succeeded(run(folder, command("sample", *words, "trust=true")))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("network=os:Mixer", r"network: os:Mixer: os is of Python's own library"),
        ("network=psld.networks.settings:NetworkSettings", r"psld.s own parts go by a kind"),
        ("network=mynets:Net", r"mynets:Net: no network: it does not subclass psld\.parts"),
        ("network.widht=3", r"unknown key network\.widht \(is network\.width meant\?\)"),
    ],
)
def test_a_typing_error_is_one_line(folder, training, word, message):
    line = refused(call(folder, "train", *training, word), 2)
    assert re.search(message, line)
    assert not (folder / "runs").exists()


BUILDS = {
    "return 3": "build returns int, not a torch.nn.Module",
    "return Net(in_channels, 7, self.width)": "gives 2×7×8×8 for 2 images; 2×2×8×8 is needed",
    "return Net(5, out_channels, self.width)": "for z of 2×2×8×8: RuntimeError",
    "raise KeyError('x')": "build: KeyError: 'x'",
    "return kept(Net(in_channels, out_channels, 4))": "x is torch.bfloat16, which no file",
    "return named(Net(in_channels, out_channels, 4), num_classes)": (
        "for z of 2×2×8×8 and label 10, of 10 classes and none: IndexError"
    ),
    "return halving(Net(in_channels, out_channels, 4))": "changes its input; work on a copy",
    "return exact(Net(in_channels, out_channels, 4))": "x is torch.complex128, which no file",
    "return Net(in_channels, out_channels, 4).requires_grad_(False)": "loss: RuntimeError: element",
    "return Training(Net(in_channels, out_channels, 4))": "loss: KeyError: 'in training'",
    "return larger(Net(in_channels, out_channels, 4))": (
        "gives 2×3×8×8 for 2 images; 2×2×8×8 is needed"
    ),
    """net = Net(in_channels, out_channels, self.width)
        net.n = nn.Parameter(torch.ones(2, dtype=torch.long), requires_grad=False)
        return net""": "n is a parameter of torch.int64; a parameter has floats",
}


WRAPPED = """
def kept(net):
    net.register_buffer("x", torch.ones(1, dtype=torch.bfloat16))
    return net


def exact(net):
    net.register_buffer("x", torch.ones(1, dtype=torch.complex128))
    return net


class Training(nn.Sequential):
    def forward(self, z, t):
        return {False: self[0]}["in training" if self.training else False](z, t)


def halving(net):
    forward = net.forward
    net.forward = lambda z, t: forward(z.mul_(0.5), t)
    return net


def larger(net):
    forward = net.forward
    net.forward = lambda z, t, k=None: forward(z, t)[:, [0, 1] if k is None else [0, 1, 1]]
    return net


def named(net, num_classes):
    table, forward = nn.Embedding(num_classes, 1), net.forward
    net.forward = lambda z, t, k=None: forward(z, t) if k is None else z + table(k).sum()
    return net
"""


@pytest.mark.parametrize("build", BUILDS)
def test_a_wrong_build_is_one_line_before_the_training(folder, training, build):
    edit(folder / "mynets.py", "return Net(in_channels, out_channels, self.width)", build)
    with (folder / "mynets.py").open("a") as file:
        file.write(WRAPPED)
    words = ("training.label_dropout=0.1",) if "num_classes" in build or "larger" in build else ()
    line = refused(call(folder, "train", *training, *words), 2)
    assert f"network: mynets:Mixer: {BUILDS[build]}" in line
    assert not (folder / "runs").exists()


def test_a_setting_without_a_type_is_one_line(folder, training):
    """By a message of pydantic, which says when it has changed."""
    edit(folder / "mynets.py", "    width: int = 8", "    width = 8")
    line = refused(call(folder, "train", *training), 2)
    assert "mynets.py: width: a setting needs a type, such as width: int = 8" in line


def test_in_a_grid_models_and_cells_change_with_the_code_of_their_parts(folder, monkeypatch):
    monkeypatch.chdir(write(folder, pull=GUIDANCE))
    (folder / "configs/grid").mkdir(parents=True)
    content = with_models({"mine": ["network=mynets:Mixer"]})
    pull = ["sampler=em", "guidance@sampler.guidance=pull:Pull", "sampler.guidance.strength=3"]
    content["samplers"] = {"em": {"overrides": pull, "budget": "sampler.steps"}}

    def digests(file: str, old: str, new: str) -> tuple[str, str]:
        edit(folder / file, old, new)
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
