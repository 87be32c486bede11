"""Bits per dimension of Gaussian data, for which the exact value is known."""

import math

import pytest
import torch
from pydantic import ValidationError

from psld.diffusion.likelihood import bits_per_dimension, dequantize, log_likelihood
from psld.utils.errors import RunError, UserError
from tests.diffusion.mixture import Mixture
from tests.diffusion.processes import normal, phase_space, recipe, varying, vp_sde
from tests.diffusion.sampling import gaussian

DATA = gaussian(0.3, mean=0.2)


def truth(x: torch.Tensor) -> torch.Tensor:
    """log N(x; 0.2, 0.3²), summed over pixels."""
    square = ((x - 0.2) / 0.3) ** 2
    return (-0.5 * square - math.log(0.3) - 0.5 * math.log(2 * math.pi)).flatten(1).sum(dim=1)


def drawn(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return lambda z: torch.randn(z.shape, generator=generator, dtype=torch.float64)


LONG = {"beta_min": 16.0, "beta_max": 16.0}
"""A value of β with which z_T hardly depends on x₀. With a smaller β, replacing p_T by the prior
N(0, S) changes the result of single images."""

FORGETFUL = {
    "psld-dsm-upper": phase_space(0.02, matching="dsm", factor="upper", **LONG),
    "third": recipe(**LONG),
    "varying": varying(lambda t: 12 + 8 * t),
}


@pytest.mark.parametrize("name", FORGETFUL)
def test_the_likelihood_of_gaussian_data_has_four_correct_digits(name):
    """With one momentum draw, the bound is tight, because the joint density is a product."""
    process = FORGETFUL[name]
    images = 0.2 + 0.3 * normal(2, 1, 2, 2, seed=4)
    probes = 1 << (process.blocks - 1).bit_length()  # probes whose terms between blocks cancel
    found = log_likelihood(
        process,
        DATA.network(process),
        images,
        drawn(),
        probes=probes,
        start_time=1e-7,
        tolerance=1e-5,
    )
    bits = bits_per_dimension(found.log_likelihood, 4)
    expected = bits_per_dimension(truth(images), 4)
    tolerance = 1e-4 * float(expected.abs().max())
    torch.testing.assert_close(bits, expected, atol=tolerance, rtol=0)


def test_the_error_of_the_trace_does_not_raise_the_bound():
    """The draws of an image share their probes; otherwise errors of the trace would increase the
    mean of exponentials."""
    process, images = phase_space(0.02), 0.2 + 0.3 * normal(1, 1, 2, 2, seed=4).repeat(48, 1, 1, 1)
    network = DATA.network(process)
    one, many = (
        log_likelihood(process, network, images, drawn(), draws=draws, tolerance=1e-3)
        for draws in (1, 12)
    )
    spread = float(one.log_likelihood.std())
    assert spread > 0.1, "one probe leaves the terms between blocks"
    for found in (one, many):
        error = float((found.log_likelihood - truth(images)).mean())
        assert abs(error) < 4 * spread / 48**0.5


def neighbors(z, t):
    """A network that depends only on the next pixel, so the trace of its Jacobian is 0."""
    return 0.8 * z.roll(1, -1)


def neighbors_as_they_are(z, t):
    """The same numbers without a Jacobian, so their trace needs no estimate."""
    return neighbors(z.detach(), t) + 0 * z


def test_more_groups_of_probes_reduce_the_spread():
    """Each group has separate signs, so eight probes have a third of the error of one probe."""
    process, images = vp_sde(), normal(1, 1, 2, 2, seed=4).repeat(96, 1, 1, 1)
    exact, one, eight = (
        log_likelihood(process, network, images, drawn(), probes=probes, tolerance=1e-2)
        for network, probes in ((neighbors_as_they_are, 1), (neighbors, 1), (neighbors, 8))
    )
    truth, spreads = float(exact.log_likelihood[0]), []
    for found in (one, eight):
        spreads.append(float(found.log_likelihood.std()))
        error = float(found.log_likelihood.mean()) - truth
        assert abs(error) < 4 * spreads[-1] / 96**0.5 + 0.05
    assert spreads[0] > 0.1
    assert spreads[1] < 0.43 * spreads[0]


def test_times_tolerance_and_batch_size_are_as_requested():
    process, images, calls = phase_space(0.02), 0.3 * normal(3, 1, 2, 2), []

    def network(z, t):
        calls.append((len(z), float(t[0])))
        return 0.5 * torch.tanh(z)

    choice = {"draws": 2, "batch_size": 4, "start_time": 1e-3}
    counts = []
    for tolerance in (1e-1, 1e-2):
        calls.clear()
        found = log_likelihood(process, network, images, drawn(), tolerance=tolerance, **choice)
        assert {size for size, _ in calls} == {4, 2}
        assert min(t for _, t in calls) == pytest.approx(1e-3)
        assert max(t for _, t in calls) == 1
        assert len(calls) == 2 * found.evaluations
        counts.append(found.evaluations)
    assert counts[0] < counts[1]
    calls.clear()
    found = log_likelihood(vp_sde(), network, images, drawn(), tolerance=1e-1, **choice)
    assert {size for size, _ in calls} == {3}, "one block has no momentum to draw"


def test_more_draws_tighten_the_bound():
    """A network with a wrong momentum: p(x, m)/q(m) depends on m, so the bound depends on K."""
    process = phase_space(0.02)
    perfect = DATA.network(process)

    def network(z, t):
        return perfect(z, t) + 0.3 * torch.tanh(2 * z)

    images = 0.2 + 0.3 * normal(16, 1, 1, 1, seed=4)
    one, many = (
        log_likelihood(process, network, images, drawn(1), probes=2, draws=draws, tolerance=1e-3)
        for draws in (1, 8)
    )
    assert float((many.log_likelihood - one.log_likelihood).mean()) > 0


def test_the_likelihood_of_a_mixture_is_exact():
    process, data = vp_sde(), Mixture(weights=(0.5, 0.5), means=(-0.4, 0.4), deviations=(0.2, 0.2))
    images = torch.tensor([-0.5, 0.0, 0.3], dtype=torch.float64).view(3, 1, 1, 1)
    found = log_likelihood(process, data.network(process), images, drawn(), tolerance=1e-7)
    parts = torch.stack([-0.5 * ((images - mean) / 0.2) ** 2 for mean in (-0.4, 0.4)])
    density = parts.exp().mean(dim=0).flatten() / (0.2 * math.sqrt(2 * math.pi))
    torch.testing.assert_close(found.log_likelihood, density.log(), atol=2e-4, rtol=0)


def test_gradients_are_computed_in_inference_mode():
    network, images = DATA.network(vp_sde()), normal(1, 1, 2, 2)
    outside = log_likelihood(vp_sde(), network, images, drawn()).log_likelihood
    with torch.inference_mode():
        inside = log_likelihood(vp_sde(), network, images.clone(), drawn()).log_likelihood
    assert torch.equal(inside, outside)


def test_uniform_noise_has_eight_bits_per_dimension():
    """Gray levels that are uniform on [−1, 1] have the density ½ and 8 bits per pixel."""
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    images = dequantize(levels, torch.full(levels.shape, 0.5, dtype=torch.float64))
    assert float(images.min()) > -1
    assert float(images.max()) < 1
    bits = bits_per_dimension(torch.tensor([-256 * math.log(2)]), 256)
    assert float(bits) == pytest.approx(8)


def test_a_network_that_returns_nan_is_reported():
    with pytest.raises(RunError, match=r"likelihood: the score is NaN or infinite at time 1e-05"):
        log_likelihood(vp_sde(), lambda z, t: z * float("nan"), normal(1, 1, 2, 2), drawn())


def test_a_momentum_with_initial_variance_zero_is_refused():
    process = recipe(initial_variance=[0.0, 0.01, 0.0])
    with pytest.raises(UserError, match="initial_variance is 0 in an auxiliary block"):
        log_likelihood(process, neighbors, normal(1, 1, 2, 2), drawn())


@pytest.mark.parametrize(
    ("name", "value"),
    [("start_time", 2), ("tolerance", 1e-300), ("tolerance", math.nan), ("draws", 0)],
)
def test_a_number_outside_its_range_is_refused(name, value):
    """A start time after T would give a wrong likelihood, and a tolerance near 0 would take endless
    steps."""
    with pytest.raises(ValidationError, match=rf"{name}\n  Input should be (less|greater) than"):
        log_likelihood(vp_sde(), neighbors, normal(1, 1, 2, 2), drawn(), **{name: value})


def test_half_precision_is_refused():
    """The rounding error is above the tolerances, so the step control would follow the rounding
    error."""
    network = DATA.network(vp_sde())
    with pytest.raises(UserError, match="likelihood: the network computes in half precision"):
        log_likelihood(vp_sde(), lambda z, t: network(z, t).half(), normal(1, 1, 2, 2), drawn())
