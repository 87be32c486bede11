"""`psld check`: what it tells of parts of one's own, and what it refuses."""

import pytest

from tests.commands import call, refused, succeeded
from tests.parts.own import LAYERS, NETWORK, edit, write

SAMPLER = """
from psld.parts import TimeGridSampler


class Own(TimeGridSampler):
    def build(self, process, device, inpainting=None):
        from psld.diffusion.integrators import EulerMaruyama

        return EulerMaruyama(process, self.time_grid(process), device)
"""
REST = """
import math

from psld.parts import Schedule, Source, Images


class Half(Schedule):
    def factor(self, step, steps):
        return 0.5


class Broken(Schedule):
    def factor(self, step, steps):
        return math.nan


class Empty(Source):
    def open(self):
        return Images(train=[("text", 0)], test=[], class_names=())
"""


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path, mynets=NETWORK, mylayers=LAYERS, mysam=SAMPLER, rest=REST)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("mynets:Mixer",), "takes 2×16×16 and gives the same; 314 weights"),
        (("mynets:Mixer",), "mynets.py: imports torch at its top"),
        (("mynets:Mixer", "width=4"), "158 weights"),
        (("mysam:Own", "striding=edm", "steps=7"), "7 evaluations, 7 stated"),
        (("rest:Half",), "at steps 0, 1, 500 and 999 of 1,000: 0.5, 0.5, 0.5, 0.5"),
    ],
)
def test_it_tries_what_the_noun_asks(words, says, folder):
    assert says in succeeded(call(folder, "check", *words)).stdout


def test_a_sampler_imports_torch_when_it_is_built(folder):
    words = ("mysam:Own", "striding=edm", "steps=3")
    assert "imports torch" not in succeeded(call(folder, "check", *words)).stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("mynets:Net",),
            "mynets:Net: no part: it does not subclass a class of psld.parts",
        ),
        (("absent:Net",), "no module absent"),
        (("mysam:Own",), "steps is missing"),
        (("mynets:Mixer", "widht=3"), "unknown key widht (is width meant?)"),
        (("rest:Broken",), "training.schedule: rest:Broken: the factor of step 0 is nan"),
        (("rest:Empty",), "dataset.source: rest:Empty: train picture 0: a str; right is"),
    ],
)
def test_what_is_wrong_is_one_line(words, says, folder):
    refused(call(folder, "check", *words), 2, says)


def test_a_network_that_mixes_images_is_found(folder):
    edit(folder / "mynets.py", "h = self.a(z)", "h = self.a(z - z.mean())")
    refused(call(folder, "check", "mynets:Mixer"), 2, "an image depends on the others of its batch")
