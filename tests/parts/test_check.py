"""`psld check`: what it tells of parts of one's own, and what it refuses."""

import json

import pytest

from psld.config.parts import UnknownPart, importing_nothing
from psld.config.settings import parse
from psld.parts import Network, Sampler
from tests.commands import call, refused, succeeded
from tests.parts.own import edit, with_network, write

WRONG = """
import math

import torch

from psld.networks.forward import EMA
from psld.parts import Average, Images, Network, Optimizer, Schedule, Source, TimeGridSampler


class Unwritten(Network):
    pass


class Broken(Schedule):
    def factor(self, step, steps):
        return math.nan


class Empty(Source):
    def open(self):
        return Images(train=[("text", 0)], test=[], class_names=())


class Unloaded(Average):
    def build(self, network):
        average = EMA(network, 0.5)
        average.state_dict = dict
        return average


class Counted(EMA):
    count = 0

    def update(self, network):
        self.count += 1
        self.decay = 1 - 1 / self.count
        super().update(network)


class Uncounted(Average):
    def build(self, network):
        return Counted(network, 0.0)


class Halved(torch.optim.SGD):
    count = 0

    def step(self):
        self.count += 1
        self.param_groups[0]["lr"] = 1 / self.count
        super().step()


class Hidden(Optimizer):
    def build(self, parameters):
        return Halved(parameters)


class Wrapped(torch.optim.SGD):
    def state_dict(self):
        return {"one": super().state_dict()}

    def load_state_dict(self, state):
        super().load_state_dict(state["one"])


class Nested(Optimizer):
    def build(self, parameters):
        return Wrapped(parameters, momentum=0.9)


class Sees(torch.nn.Module):
    def __init__(self, pixels, classes):
        super().__init__()
        self.map = torch.nn.Linear(pixels, classes)

    def forward(self, z, t):
        return self.map(z.flatten(1))


class Logits(Network):
    def build(self, in_channels, out_channels, image_size, num_classes):
        return Sees(in_channels * image_size**2, out_channels)


class NoisyMomentum(TimeGridSampler):
    def build(self, process, device, inpainting=None):
        from psld.diffusion.integrators import EulerMaruyama

        def step(index, z, score, noise):
            z[:, 1:] += noise(z[:, 1:])
            return z

        steps = EulerMaruyama(process, self.time_grid(process), device)
        steps.step = step
        return steps


class Unknown(Schedule):
    every: "int | Absent" = 8


class Raises(Schedule):
    def model_post_init(self, context):
        raise KeyError("of mine")
"""

FIELDS = """
from enum import Enum
from pathlib import Path
from typing import Literal

from pydantic import Field, computed_field

from mynets import Mixer
from psld.config.settings import Settings
from psld.parts import Network


class Color(Enum):
    RED = "red"


class Head(Settings):
    width: int = 4
    depth: int = 2


class Conv(Settings):
    type: Literal["conv"] = "conv"


class Attention(Settings):
    type: Literal["attention"] = "attention"
    heads: int = 3


class Fields(Network):
    head: Head = Head(width=8, depth=4)
    heads: tuple[Head, ...] = (Head(),)
    named: dict[str, Head] = {}
    block: Conv | Attention = Conv()
    widths: list[int] = [4, 4]
    names: frozenset[str] = frozenset("abcdefgh")
    color: Color = Color.RED
    file: Path = Path("x")
    inner: Network = Mixer()
    rate: float = Field(1.0, alias="lr")

    @computed_field
    @property
    def double(self) -> int:
        return 2 * len(self.widths)

    def build(self, in_channels, out_channels, image_size, num_classes):
        print(self)
        return self.inner.build(in_channels, out_channels, image_size, num_classes)
"""
RESERVED = """
from psld.parts import Extractor, Network


class Mine({}):
    {}: int = 8
"""
GROUP = """
from pydantic import computed_field

from mynets import Mixer
from psld.config.settings import Settings


class Head(Settings):
    @computed_field
    @property
    def double(self) -> int:
        return 2


class Changed(Mixer):
    head: Head = Head()
"""


@pytest.fixture
def folder(outside):
    files = {
        "twice": TWICE.replace("ENDS", "True"),
        "wrong": WRONG,
        "fields": FIELDS,
        "coded": RESERVED.format("Network", "code"),
        "built": RESERVED.format("Network", "build"),
        "named": RESERVED.format("Extractor", "in_names"),
        "group": GROUP,
    }
    return with_network(write(outside, **files))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("mynets:Mixer",), "takes 2×16×16 and gives the same; 314 weights"),
        (("mynets:Mixer", "width=4"), "158 weights"),
        (("wrong:Nested",), "a checkpoint can hold its state"),
        (("wrong:Logits",), "takes 2×16×16 and gives logits, as a guide; 1,539 weights"),
        (("heun:Heun", "striding=edm", "steps=7"), "samples one Gaussian as PSLD: 7 evaluations"),
        (("heun:Heun", "striding=edm", "steps=7", "guidance=classifier-free"), "7 evaluations"),
        (("mine:Halves", "every=400"), "at steps 0, 1, 500 and 999 of 1,000: 1, 1, 0.5, 0.25"),
    ],
)
def test_it_tries_what_the_noun_asks(words, says, folder):
    printed = succeeded(call(folder, "check", *words)).stdout
    assert says in printed
    assert ("py: imports torch at its top" in printed) is (words[0] != "heun:Heun")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("mynets:Net",), "mynets:Net: no part: it does not subclass a class of psld.parts"),
        (("absent:Net",), "no module absent"),
        (("heun:Heun",), "steps is missing"),
        (("mynets:Mixer", "widht=3"), "unknown key widht (is width meant?)"),
        (("wrong:Broken",), "training.schedule: wrong:Broken: the factor of step 0 is nan"),
        (("wrong:Unwritten",), "build: NotImplementedError: not implemented by the class"),
        (("wrong:Uncounted",), "training.average: wrong:Uncounted: a resumed training differs, so"),
        (("wrong:Hidden",), "training.optimizer: wrong:Hidden: a resumed training differs, so"),
        (("wrong:Unloaded",), "training.average: wrong:Unloaded: its state, loaded again: Attrib"),
        (
            ("wrong:NoisyMomentum", "striding=uniform", "steps=3"),
            "sampler: wrong:NoisyMomentum: step: RuntimeError: output with shape [4, 1, 8, 8]",
        ),
        (("wrong:Unknown",), "wrong:Unknown: PydanticUserError: `Unknown` is not fully defined"),
        (("wrong:Raises",), "wrong:Raises: KeyError: 'of mine'"),
        (("fields:Fields", "wdths=[3]"), "unknown key wdths (is widths meant?)"),
        (("fields:Fields", "widths=3,4"), "Ambiguous value for argument"),
        (("coded:Mine",), "Mine: code is a name of psld; call it otherwise"),
        (("built:Mine",), "Mine: build is a name of psld; call it otherwise"),
        (("named:Mine",), "Mine: in_names is a name of psld; call it otherwise"),
        (("group:Changed",), "group:Changed: what it writes: unknown key head.double"),
        (("twice:Ends",), "twice.py: SystemExit: of mine"),
        (("wrong:Empty",), "dataset.source: wrong:Empty: train picture 0: a str; right is"),
    ],
)
def test_what_is_wrong_is_one_line(words, says, folder):
    refused(call(folder, "check", *words), 2, says)


def test_words_set_fields_of_every_kind(folder, digits):
    words = ["head.width=3", "widths=[3,4]", "inner=mynets:Mixer", "inner.width=5", "rate=2"]
    words += ["block.type=attention", "block.heads=7", "named.up.width=9"]
    printed = succeeded(call(folder, "check", "fields:Fields", *words)).stdout
    built = "head=Head(width=3, depth=4)", "widths=[3, 4]", "width=5)", "rate=2.0"
    built += "block=Attention(type='attention', heads=7)", "{'up': Head(width=9, depth=2)}"
    assert all(text in printed for text in built), printed
    words = ["network=fields:Fields", *(f"network.{word}" for word in words)]
    shown = succeeded(call(folder, "train", *words, "--help")).stdout
    assert "      width: 3\n      depth: 4\n    heads: [{width: 4, depth: 2}]\n" in shown
    assert "    color: red\n    file: x\n" in shown
    refused(call(folder, "train", f"data={digits}", "network=group:Changed"), 2, "head.double")
    assert not (folder / "runs").exists()


TWICE = """
import sys
import mynets
from psld.parts import Network


class Two(Network):
    a: Network = mynets.Mixer()
    b: Network = mynets.Mixer()
    scales: dict[int, float] = {1: 0.5}

    def build(self, *given):
        return self.a.build(*given)


class Ends(Network):
    ends: bool = sys.exit("of mine") if ENDS else False
"""


def test_a_part_has_two_of_one_class_and_numbers_as_keys(folder):
    write(folder, twice=TWICE.replace("ENDS", "False"))
    succeeded(call(folder, "check", "twice:Two", "a={kind: mynets:Mixer, width: 4}"))
    part = parse(Network, {"kind": "twice:Two"}, "x")
    assert part.identity()["scales"] == {"1": 0.5}


@pytest.mark.parametrize(
    ("value", "reason"), [("print", "unknown type"), (r'b"\xff"', "invalid utf-8")]
)
def test_a_setting_that_json_cannot_hold_is_refused(folder, value, reason):
    edit(
        folder / "mynets.py",
        "    width: int = 8\n",
        f"    width: int = 8\n    by: object = {value}\n",
    )
    printed = refused(call(folder, "check", "mynets:Mixer"), 2, "JSON cannot hold a setting")
    assert reason in printed


def test_sets_are_written_and_compared_in_order(folder):
    part = parse(Network, {"kind": "fields:Fields"}, "x")
    assert part.identity()["names"] == part.model_dump(mode="json")["names"] == [*"abcdefgh"]
    assert hash(part) == hash(part.model_copy()), "fields are lists and dictionaries, too"


NESTED = """
from typing import Annotated

from psld.config.settings import Settings
from pydantic import BaseModel
from psld.parts import FREE, Guidance, Network, Neutral, TimeGridSampler


class Group(Settings):
    note: Annotated[str, FREE] = "x"
    alpha: Annotated[float, Neutral(0.0)] = 0.0
    tags: frozenset[str] = frozenset("qwertzuiop")
    power: int | None = 3


class Plain(BaseModel):
    dilation: int | None = None


class Inner(Network):
    group: Group = Group()


class Until(Guidance):
    group: Group = Group()
    until: float | None = None
    note: Annotated[str | None, FREE] = None


class Early(TimeGridSampler):
    final_time: Annotated[float, FREE] = 1e-2
    until: float | None = None


class Outer(Network):
    group: Group = Group()
    groups: tuple[Group, ...] = (Group(), Group(note="a", power=None))
    named: dict[str, Group | None] = {"a": Group(note="b"), "free": None, "class": Group()}
    inner: Network = Inner()
    plain: Plain = Plain()
    nothing: int | None = 3
    sets: tuple[frozenset[str], ...] = (frozenset("asdfghjkl"),)
"""


@pytest.mark.parametrize("changes", [{}, {"nothing": None, "group": {"note": "y", "power": None}}])
def test_its_identity_is_known_without_its_code(folder, changes):
    write(folder, nested=NESTED)
    part = parse(Network, {"kind": "nested:Outer", **changes}, "x")
    written = json.loads(json.dumps(part.model_dump(mode="json")))
    assert parse(Network, written, "x") == part
    with importing_nothing():
        unknown = parse(Network, written, "x")
    assert isinstance(unknown, UnknownPart)
    assert unknown.identity() == part.identity()
    assert unknown.model_dump(mode="json") == written
    decides = json.dumps(part.identity())
    assert not any(word in decides for word in ("note", "alpha", '"x"', '"y"'))


@pytest.mark.parametrize("name", ["em", "nested:Early"])
def test_a_result_has_its_sampler_with_and_without_the_code(folder, name):
    write(folder, nested=NESTED)
    content = {"integrator": name, "striding": "uniform", "steps": 3, "guidance": "nested:Until"}
    part = parse(Sampler, content, "x")
    written = json.loads(json.dumps(part.model_dump(mode="json")))
    with importing_nothing():
        unknown = parse(Sampler, written, "x")
    assert unknown.identity() == part.identity()
    results = [each.model_dump(mode="json", exclude_none=True) for each in (part, unknown)]
    assert results[0] == results[1]
    assert "free" not in results[0]["guidance"]


def test_a_network_that_mixes_images_is_found(folder):
    edit(folder / "mynets.py", "h = self.a(z)", "h = self.a(z - z.mean())")
    refused(call(folder, "check", "mynets:Mixer"), 2, "an image depends on the others of its batch")
