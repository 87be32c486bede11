"""`psld check`: what it tells of parts of one's own, and what it refuses."""

import pytest

from tests.commands import call, refused, succeeded
from tests.parts.own import edit, with_network

WRONG = """
import math

from psld.networks.forward import EMA
from psld.parts import Average, Images, Schedule, Source


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


class Unknown(Schedule):
    every: "int | Absent" = 8


class Raises(Schedule):
    def model_post_init(self, context):
        raise KeyError("of mine")
"""


@pytest.fixture
def folder(outside):
    (outside / "wrong.py").write_text(WRONG)
    return with_network(outside)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("mynets:Mixer",), "takes 2×16×16 and gives the same; 314 weights"),
        (("mynets:Mixer", "width=4"), "158 weights"),
        (("heun:Heun", "striding=edm", "steps=7"), "7 evaluations, 7 stated"),
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
        (("wrong:Unloaded",), "training.average: wrong:Unloaded: its state, loaded again: Attrib"),
        (("wrong:Unknown",), "wrong:Unknown: PydanticUserError: `Unknown` is not fully defined"),
        (("wrong:Raises",), "wrong:Raises: KeyError: 'of mine'"),
        (("wrong:Empty",), "dataset.source: wrong:Empty: train picture 0: a str; right is"),
    ],
)
def test_what_is_wrong_is_one_line(words, says, folder):
    refused(call(folder, "check", *words), 2, says)


def test_a_network_that_mixes_images_is_found(folder):
    edit(folder / "mynets.py", "h = self.a(z)", "h = self.a(z - z.mean())")
    refused(call(folder, "check", "mynets:Mixer"), 2, "an image depends on the others of its batch")
