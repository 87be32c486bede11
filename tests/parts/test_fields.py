"""The settings of custom parts: fields of every kind, as words, as JSON and as data."""

import json

import pytest

from psld.config.parts import imported
from psld.config.settings import parse, reading_a_file
from psld.parts import Network, Sampler
from tests.commands import call, succeeded
from tests.parts.own import with_network, write

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
TWICE = """
import mynets
from psld.parts import Network


class Two(Network):
    a: Network = mynets.Mixer()
    b: Network = mynets.Mixer()
    scales: dict[int, float] = {1: 0.5}

    def build(self, *given):
        return self.a.build(*given)
"""


@pytest.fixture
def folder(outside):
    return with_network(write(outside, fields=FIELDS, twice=TWICE, nested=NESTED))


def test_overrides_set_fields_of_every_kind(folder):
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


def test_a_part_may_have_two_fields_of_one_class_and_numbers_as_keys(folder):
    succeeded(call(folder, "check", "twice:Two", "a={kind: mynets:Mixer, width: 4}"))
    part = parse(Network, {"kind": "twice:Two"}, "x")
    assert part.identity()["scales"] == {"1": 0.5}


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
def test_the_identity_of_a_part_is_known_without_its_code(folder, changes):
    part = parse(Network, {"kind": "nested:Outer", **changes}, "x")
    written = json.loads(json.dumps(part.model_dump(mode="json")))
    with reading_a_file():
        data = parse(Network, written, "x")
    assert data.is_data
    assert data.identity() == part.identity()
    assert data.model_dump(mode="json") == written
    assert imported(data) == part
    decides = json.dumps(part.identity())
    assert not any(word in decides for word in ("note", "alpha", '"x"', '"y"'))


@pytest.mark.parametrize("name", ["em", "nested:Early"])
def test_a_result_records_the_same_sampler_with_and_without_its_code(folder, name):
    content = {"integrator": name, "striding": "uniform", "steps": 3, "guidance": "nested:Until"}
    part = parse(Sampler, content, "x")
    written = json.loads(json.dumps(part.model_dump(mode="json")))
    with reading_a_file():
        data = parse(Sampler, written, "x")
    assert data.identity() == part.identity()
    results = [each.model_dump(mode="json", exclude_none=True) for each in (part, data)]
    assert results[0] == results[1]
