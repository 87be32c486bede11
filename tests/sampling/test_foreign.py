"""External denoisers: the noise levels of their evaluations, and the initial images."""

from typing import ClassVar

import pytest
import torch
from torch import nn

import psld
from psld.diffusion.process import LinearBeta, LinearProcess
from psld.utils.errors import UserError

SHAPE = (1, 8, 8)


class Perfect(nn.Module):
    """The denoiser of white noise images with this deviation; it records the noise levels."""

    def __init__(self, deviation: float = 0.5) -> None:
        super().__init__()
        self.variance = deviation**2
        self.levels: list[float] = []
        self.deviations: list[float] = []
        self.halves: set[bool] = set()

    def forward(self, y, sigma):
        self.levels.append(float(sigma[0]))
        self.deviations.append(float(y.std()))
        self.halves.add(torch.is_autocast_enabled("cpu"))
        sigma = sigma.view(-1, 1, 1, 1)
        return y * self.variance / (self.variance + sigma**2)


def model(low: float, high: float, images=None):
    network = Perfect().eval()
    return network, psld.from_denoiser(network, SHAPE, sigma_min=low, sigma_max=high, images=images)


def clusters() -> torch.Tensor:
    """Return four pictures, each 40 times with noise, uint8."""
    random = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 2, (4, *SHAPE), generator=random).repeat(40, 1, 1, 1)
    return (20 + 160 * pictures + torch.randint(0, 60, pictures.shape, generator=random)).byte()


@pytest.mark.parametrize(
    ("process", "low", "high"), [("vp-sde", 0.05, 80.0), ("cld", 0.0, float("inf"))]
)
def test_an_external_network_is_evaluated_at_its_levels(process, low, high):
    """This is tested with the default sampler."""
    network, theirs = model(low, high)
    images = theirs.sample(200, process=process, raw=True)
    first, last = network.levels[0], network.levels[-1]
    assert len(network.levels) == 10
    assert last == pytest.approx(0.05) if low else last < 0.02
    assert first == pytest.approx(80) if high == 80 else first > 100
    assert float(images.std()) == pytest.approx(0.5, rel=0.1)


def test_a_start_level_that_does_not_hide_the_images_is_refused():
    network, theirs = model(0.0, 5.0)
    with pytest.raises(UserError, match="accepts 0 to 5; change"):
        theirs.sample(2, process="vp-sde", sampler="multistep", steps=4)
    with pytest.raises(UserError, match=r"start: .* use start=prior"):
        theirs.sample(2, sampler="few", steps=4, start="gaussian", start_level=3.0)
    assert not network.levels
    network, theirs = model(0.0, 10.0)
    choice = {"sampler": "multistep", "steps": 4, "start": "gaussian", "start_level": 10.0}
    theirs.sample(200, process="vp-sde", **choice)
    assert network.deviations[0] == pytest.approx(101**0.5, rel=5e-3), "of variance 1"


@pytest.mark.parametrize("start", ["gaussian", "mixture"])
def test_a_start_fitted_to_images_is_one_gaussian_or_a_mixture(start):
    """Without evaluations, images of the mixture are close to one of four pictures."""
    seen = clusters()
    _, theirs = model(0.002, 80.0, seen)
    images = theirs.sample(100, sampler="few", steps=0, start=start, raw=True)
    pictures = (seen[:4] / 127.5 - 1).flatten(1)
    nearest = torch.cdist(images.flatten(1), pictures).amin(1) / SHAPE[1]
    assert (float(nearest.median()) > 0.3) is (start == "gaussian")


def test_the_first_given_level_is_the_start_level():
    network, theirs = model(0.002, 80.0, clusters())
    choice = {"sampler": "few", "steps": 3, "levels": [3.0, 1.0, 0.2], "start": "gaussian"}
    theirs.sample(200, process="cld", **choice)
    assert network.levels == pytest.approx([3, 1, 0.2], rel=1e-4)
    spread = float((clusters() / 127.5 - 1).std())
    assert network.deviations[0] == pytest.approx((9 + spread**2) ** 0.5, rel=0.02)


def test_the_start_level_is_within_the_levels_of_the_network():
    network, theirs = model(0.002, 0.6, clusters())
    theirs.sample(4, sampler="few", steps=3, start="gaussian")
    assert max(network.levels) == pytest.approx(0.6, rel=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_network_computes_in_the_requested_precision(precision):
    network, theirs = model(0.0, float("inf"))
    theirs.sample(2, sampler="em", steps=3, precision=precision)
    assert network.halves == {precision == "bf16"}


class Noted(LinearProcess):
    """A process that records draws of its prior, also in copies of the process."""

    drawn: ClassVar[list[torch.Size]] = []

    def prior(self, noise):
        self.drawn.append(noise.shape)
        return super().prior(noise)


def test_a_process_of_a_subclass_uses_the_methods_of_the_subclass():
    beta = LinearBeta(0.1, 20.0)
    process = Noted([[0.5]], [[0.0]], [1.0], beta, initial_variance=[0.0])
    _, theirs = model(0.0, float("inf"))
    assert theirs.eps(process).process.prior(torch.zeros(1, 1)).shape == (1, 1)
    Noted.drawn.clear()
    images = theirs.sample(2, process=process, sampler="em", steps=3)
    assert Noted.drawn == [(2, *SHAPE)]
    assert torch.equal(images, theirs.sample(2, process="vp-sde", sampler="em", steps=3))


@pytest.mark.parametrize("seen", [clusters(), None], ids=["images", "none"])
def test_the_default_dtype_of_torch_changes_nothing(seen):
    """This holds for the start fitted to images, and for white noise, the start without images."""
    given = {"process": "vp-sde", "steps": 4, "raw": True}
    _, theirs = model(0.0, 80.0, seen)
    expected = theirs.sample(2, **given)
    torch.set_default_dtype(torch.float64)
    try:
        _, theirs = model(0.0, 80.0, seen)
        assert torch.equal(theirs.sample(2, **given), expected)
    finally:
        torch.set_default_dtype(torch.float32)
