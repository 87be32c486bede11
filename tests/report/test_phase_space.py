"""The path of one image through phase space: its end as a sample, and its figure."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from psld.data.pixels import to_uint8
from psld.report.phase_space import PIXELS, TIMES, draw_trace, spread_pixels
from psld.sampling.sample import trace_sample
from psld.sampling.shards import read_shard, shard_path
from psld.training.model import load_model
from tests.commands import call, succeeded
from tests.diffusion.sampling import sde

SIZE = 6
CPU = torch.device("cpu")


def trace(
    model: Path, integrator: str, sample: int, precision: str = "fp32"
) -> tuple[list[float], torch.Tensor]:
    sampler = sde(integrator, striding="quadratic", steps=5, precision=precision)
    return trace_sample(load_model(model, CPU), sampler, sample, shard_size=SIZE, seed=3)


@pytest.mark.parametrize(
    ("integrator", "precision"), [("em", "fp32"), ("sscs", "fp32"), ("em", "bf16")]
)
def test_the_path_ends_with_the_sample_of_the_cell(model, tmp_path, integrator, precision):
    overrides = [f"sampler={integrator}", "sampler.striding=quadratic", "sampler.steps=5"]
    overrides.append(f"sampler.precision={precision}")
    common = [f"model={model}", f"shard_size={SIZE}", "seed=3", "first=1"]
    succeeded(call(tmp_path, "sample", *common, *overrides, "output=cell"))
    images = read_shard(shard_path(tmp_path / "cell", 1)).images
    for index in (0, 4):
        _, states = trace(model, integrator, SIZE + index, precision)
        # M⁻¹ = 4 is the momentum's unit; that of the position is 1.
        image = to_uint8(states[-1, 0]).numpy()
        np.testing.assert_allclose(image.astype(int), images[index].astype(int), atol=1)


def test_a_path_has_its_start_each_step_and_its_end(model):
    times, states = trace(model, "em", sample=0)
    assert times[0] == 1.0
    assert times[-2:] == [1e-3, 0.0]
    assert times == sorted(times, reverse=True)
    assert states.shape == (6, 2, 1, 8, 8), "4 steps and the denoising one"
    # At T both blocks are standard normal in their own units.
    assert states[0].std(dim=(1, 2, 3)).tolist() == pytest.approx([1.0, 1.0], abs=0.3)


def test_pixels_are_followed_from_the_darkest_to_the_brightest():
    """Each once: an image may have fewer gray levels than pixels are followed."""
    image = torch.arange(64.0).reshape(8, 8)
    darkest, middle, brightest = spread_pixels(image, 3)
    assert (darkest, brightest) == ((0, 0), (7, 7))
    assert middle[0] in (3, 4)
    assert spread_pixels(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), 5) == [(0, 0), (0, 1)]
    draw_trace([1.0, 0.0], torch.zeros(2, 2, 1, 8, 8), title="Blank")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("blocks", [2, 3])
def test_the_figure_shows_blocks_by_time_and_pixels_in_the_plane(channels, blocks):
    states = torch.randn(19, blocks, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    figure = draw_trace(torch.linspace(1, 0, 19).tolist(), states, title="A title")
    pictures = [axes for axes in figure.axes if axes.images]
    assert len(pictures) == TIMES * blocks
    titles = [axes.get_title() for axes in pictures[:TIMES]]
    assert (titles[:2], titles[-1]) == (["t = 1", "t = 0.89"], "t = 0")
    shown = pictures[-1].images[0].get_array()
    assert shown.shape == ((8, 8) if channels == 1 else (8, 8, 3))
    plane, *_ = (axes for axes in figure.axes if axes.get_xlabel() == "position x")
    paths = [line for line in plane.get_lines() if len(line.get_xdata()) == 19]
    place = spread_pixels(states[-1, 0, channels // 2], PIXELS)[0]
    np.testing.assert_allclose(paths[0].get_xdata(), states[:, 0, channels // 2, *place])
    np.testing.assert_allclose(paths[0].get_ydata(), states[:, 1, channels // 2, *place])


def test_the_figure_of_a_grid_is_the_path_of_its_first_sample(model, folder):
    """A smaller model of the same kind replaces the grid's."""
    (folder / "models/mine").mkdir(parents=True)
    (folder / "models/mine/low").symlink_to(model)
    succeeded(call(folder, "figure", "grid_name=mine", "figure=phase-space/low"))
    figure = folder / "results/figures/mine/phase-space/low"
    with Image.open(figure.with_suffix(".png")) as image:
        assert min(image.size) > 600
    assert ElementTree.parse(figure.with_suffix(".svg")).getroot().tag.endswith("svg")
