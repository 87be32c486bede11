"""The way of one image through phase space: that it is a sample's, and what the picture shows."""

from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from psld.data.pixels import to_uint8
from psld.report.phase_space import draw_trace, spread_pixels
from psld.training.model import load_model
from psld.sampling.settings import SDESamplerSettings
from psld.sampling.shards import Shard
from psld.commands.trace import TraceSettings, trace_sample
from tests.commands import call, refused, succeeded

SIZE = 6
CPU = torch.device("cpu")


def settings(model, **changes) -> TraceSettings:
    sampler = SDESamplerSettings(integrator="em", striding="quadratic", steps=5)
    places = {"model": str(model), "title": "x", "output": "x", "device": "cpu"}
    numbers = {"sample": 0, "shard_size": SIZE, "seed": 3, "times": 4, "pixels": 2}
    return TraceSettings(**places | numbers | {"sampler": sampler} | changes)


@pytest.mark.parametrize("integrator", ["em", "sscs"])
def test_the_way_ends_with_the_sample_of_the_cell(model, tmp_path, integrator):
    sampler = SDESamplerSettings(integrator=integrator, striding="quadratic", steps=5)
    overrides = [f"sampler={integrator}", "sampler.striding=quadratic", "sampler.steps=5"]
    common = [f"model={model}", f"shard_size={SIZE}", "seed=3", "shard=1"]
    succeeded(call(tmp_path, "sample", *common, *overrides, "output=shard.h5"))
    images = Shard.load(tmp_path / "shard.h5").images
    for index in (0, 4):
        chosen = settings(model, sampler=sampler, sample=SIZE + index)
        trace = trace_sample(load_model(model, CPU), chosen, CPU)
        # M⁻¹ = 4 is the momentum's unit; that of the position is 1.
        image = to_uint8(trace.states[-1, 0]).numpy()
        np.testing.assert_allclose(image.astype(int), images[index].astype(int), atol=1)


def test_a_way_has_its_start_each_step_and_its_end(model):
    trace = trace_sample(load_model(model, CPU), settings(model), CPU)
    assert trace.times[0] == 1.0
    assert trace.times[-2:] == [1e-3, 0.0]
    assert trace.times == sorted(trace.times, reverse=True)
    assert trace.states.shape == (6, 2, 1, 8, 8), "4 steps and the denoising one"
    # At T both blocks are standard normal in their own units.
    assert trace.states[0].std(dim=(1, 2, 3)).tolist() == pytest.approx([1.0, 1.0], abs=0.3)


def test_pixels_are_followed_from_the_darkest_to_the_brightest():
    image = torch.arange(64.0).reshape(1, 8, 8)
    assert spread_pixels(image, 3)[::2] == [(0, 0), (7, 7)]
    rows = [row for row, _ in spread_pixels(image, 3)]
    assert rows[1] in (3, 4)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("blocks", [2, 3])
def test_the_picture_shows_blocks_by_time_and_pixels_in_the_plane(channels, blocks):
    states = torch.randn(9, blocks, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    times = torch.linspace(1, 0, 9).tolist()
    figure = draw_trace(times, states, columns=5, pixels=2, title="A title")
    pictures = [axes for axes in figure.axes if axes.images]
    assert len(pictures) == 5 * blocks
    assert [axes.get_title() for axes in pictures[:5]] == [
        *("t = 1", "t = 0.75", "t = 0.5", "t = 0.25", "t = 0")
    ]
    shown = pictures[-1].images[0].get_array()
    assert shown.shape == ((8, 8) if channels == 1 else (8, 8, 3))
    plane, *_ = (axes for axes in figure.axes if axes.get_xlabel() == "position x")
    ways = [line for line in plane.get_lines() if len(line.get_xdata()) == 9]
    place = spread_pixels(states[-1, 0], 2)[0]
    np.testing.assert_allclose(ways[0].get_xdata(), states[:, 0, channels // 2, *place])
    np.testing.assert_allclose(ways[0].get_ydata(), states[:, 1, channels // 2, *place])


def test_the_command_writes_a_picture_and_a_vector_graphic(model, tmp_path):
    arguments = (f"model={model}", "sampler.steps=4", "shard_size=4", "output=way/x", "times=3")
    succeeded(call(tmp_path, "trace", *arguments))
    assert {path.name for path in (tmp_path / "way").iterdir()} == {"x.png", "x.svg"}
    with Image.open(tmp_path / "way" / "x.png") as image:
        assert min(image.size) > 600
    assert ElementTree.parse(tmp_path / "way" / "x.svg").getroot().tag.endswith("svg")


def test_what_has_no_way_through_phase_space_is_refused(model, vp_sde_model, tmp_path):
    for overrides, words in (
        ([f"model={vp_sde_model}"], ["has no momentum (vp-sde)", "psld, cld or recipe"]),
        ([f"model={model}", "sampler=rk45"], ["use em or sscs"]),
        ([f"model={model}", "guidance@sampler.guidance=classifier-free"], ["use none"]),
        (["model=nowhere"], ["nowhere/manifest.json: no such file"]),
    ):
        refused(call(tmp_path, "trace", *overrides, "output=x"), 2, *words)
    assert not list(tmp_path.glob("x.*"))
