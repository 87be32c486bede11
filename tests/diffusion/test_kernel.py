"""Every entry of the kernel's covariance, compared with 60-digit arithmetic."""

import mpmath
import pytest
import torch

from psld.diffusion.process import LinearProcess
from tests.diffusion.processes import EVERY_KIND, phase_space, recipe, times, vp_sde

PROCESSES = {
    "vp-sde": vp_sde(),
    "cld-dsm": phase_space(0.0, numerical_eps=0.0, matching="dsm"),
    "psld": phase_space(0.02, numerical_eps=0.0),
    "third": recipe(numerical_eps=0.0),
}


def exact(process: LinearProcess, t: float) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Return Σ given z₀, Σ given x₀, and ρ from S + Φ(Σ₀ − S)Φᵀ, with digits to lose fifty."""
    with mpmath.workdps(90):
        D, Q, S, start = (
            mpmath.matrix(matrix.tolist())
            for matrix in (process.D, process.Q, process.S, process.initial_covariance)
        )
        rate = (D + Q) * S**-1
        phi = mpmath.expm(-rate * mpmath.mpf(float(process.beta.integral(times(t)))))
        covariances = [S + phi * (each - S) * phi.T for each in (0 * S, start)]
        a = phi[:, 0]
        precision = (a.T * mpmath.lu_solve(covariances[1], a))[0]
        known, image = (torch.tensor(each.tolist(), dtype=torch.float64) for each in covariances)
        return known, image, float(precision)


@pytest.mark.parametrize("t", [1e-6, 1e-3, 1.0])
@pytest.mark.parametrize("name", PROCESSES)
def test_every_entry_of_the_covariance_is_accurate(name, t):
    """The covariance is conditional on z₀ (DSM), or only on the image. For k < 3, this includes the
    noise level."""
    process = PROCESSES[name]
    known, image, precision = exact(process, t)
    kernel = known if process.matching == "dsm" else image
    for found, expected in (
        (process.covariance(times(t)), kernel),
        (process.image_covariance(times(t)), image),
    ):
        deviation = torch.diagonal(expected).sqrt()
        error = (found[0] - expected).abs() / torch.outer(deviation, deviation)
        assert error.max() < 1e-14
    if name != "third" and t > 1e-6:
        assert float(process.noise_level(times(t))) == pytest.approx(precision**-0.5, rel=1e-9)


@pytest.mark.parametrize("name", EVERY_KIND)
def test_the_rate_of_the_noise_level_is_its_derivative(name):
    process, t, step = EVERY_KIND[name], times(1e-4, 1e-2, 0.3, 0.9), 1e-4
    difference = process.log_snr(t * (1 + step)) - process.log_snr(t * (1 - step))
    torch.testing.assert_close(
        process.log_snr_rate(t), difference / (2 * step * t), rtol=1e-4, atol=1e-6
    )


def test_the_third_order_process_is_critically_damped():
    """All eigenvalues of (D + Q) S⁻¹ are 1: its characteristic polynomial is (λ − 1)³."""
    rate = EVERY_KIND["third"].sde.rate
    square = rate @ rate
    minors = (rate.trace() ** 2 - square.trace()) / 2
    found = torch.stack([rate.trace(), minors, torch.linalg.det(rate)])
    torch.testing.assert_close(found, times(3, 3, 1), rtol=1e-14, atol=0)
    eigenvalues = torch.linalg.eigvals(rate)
    assert (eigenvalues - 1).abs().max() < 1e-4, "a triple root is known to (1e-16)^(1/3)"
