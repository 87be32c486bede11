"""The kernel's covariance in every entry, against 60-digit arithmetic."""

import mpmath
import pytest
import torch

from psld.diffusion.process import LinearProcess
from tests.diffusion.processes import EVERY_KIND, THREE_ORDERS, phase_space, recipe, times, vp_sde

PROCESSES = {
    "vp-sde": vp_sde(),
    "cld": phase_space(0.0, numerical_eps=0.0),
    "cld-dsm": phase_space(0.0, numerical_eps=0.0, matching="dsm"),
    "psld": phase_space(0.02, numerical_eps=0.0),
    "third": recipe(numerical_eps=0.0),
    "third-dsm": recipe(numerical_eps=0.0, matching="dsm"),
}


def exact(process: LinearProcess, t: float) -> tuple[torch.Tensor, float]:
    """(Σ, ρ) from S + Φ(Σ₀ − S)Φᵀ, with enough digits to lose fifty of them."""
    with mpmath.workdps(90):
        D, Q, S, start = (
            mpmath.matrix(matrix.tolist())
            for matrix in (process.D, process.Q, process.S, process.initial_covariance)
        )
        rate = (D + Q) * S**-1
        phi = mpmath.expm(-rate * mpmath.mpf(float(process.beta.integral(times(t)))))
        if process.matching == "dsm":
            start = 0 * S
        covariance = S + phi * (start - S) * phi.T
        a = phi[:, 0]
        precision = (a.T * mpmath.lu_solve(covariance, a))[0]
        return torch.tensor(covariance.tolist(), dtype=torch.float64), float(precision)


@pytest.mark.parametrize("t", [1e-6, 1e-5, 1e-3, 0.1, 1.0])
@pytest.mark.parametrize("name", PROCESSES)
def test_every_entry_of_the_covariance_has_all_its_digits(name, t):
    process = PROCESSES[name]
    expected, _ = exact(process, t)
    deviation = torch.diagonal(expected).sqrt()
    error = (process.covariance(times(t))[0] - expected).abs() / torch.outer(deviation, deviation)
    assert error.max() < 1e-14


@pytest.mark.parametrize("t", [1e-5, 1e-3, 0.1, 1.0])
@pytest.mark.parametrize("name", ["vp-sde", "cld", "psld"])
def test_the_noise_level_has_its_digits_at_small_times(name, t):
    process = PROCESSES[name]
    _, precision = exact(process, t)
    assert float(process.precision(times(t))) == pytest.approx(precision, rel=1e-9)


@pytest.mark.parametrize("name", EVERY_KIND)
def test_the_rate_of_the_noise_level_is_its_derivative(name):
    process, t, step = EVERY_KIND[name], times(1e-4, 1e-2, 0.3, 0.9), 1e-4
    difference = process.log_snr(t * (1 + step)) - process.log_snr(t * (1 - step))
    torch.testing.assert_close(
        process.log_snr_rate(t), difference / (2 * step * t), rtol=1e-4, atol=1e-6
    )


def test_a_matching_changes_the_kernel_but_not_the_noise_on_the_image():
    t = times(1e-3, 0.2, 1.0)
    hsm, dsm = EVERY_KIND["psld-hsm-lower"], EVERY_KIND["psld-dsm-lower"]
    assert not torch.allclose(hsm.covariance(t), dsm.covariance(t))
    torch.testing.assert_close(hsm.image_covariance(t), dsm.image_covariance(t))
    torch.testing.assert_close(hsm.noise_level(t), dsm.noise_level(t))


def test_noise_levels_of_psld():
    """The table of the mathematics' source, to its digits."""
    levels = phase_space(0.01).noise_level(times(0.001, 0.01, 0.1, 0.3, 0.7, 1.0))
    expected = times(0.009, 0.032, 0.42, 2.4, 32, 258)
    torch.testing.assert_close(levels, expected, rtol=0.03, atol=0)


def test_the_third_order_process_is_critically_damped():
    """All eigenvalues of (D + Q) S⁻¹ are 1: its characteristic polynomial is (λ − 1)³."""
    rate = THREE_ORDERS["third"].rate
    square = rate @ rate
    minors = (rate.trace() ** 2 - square.trace()) / 2
    found = torch.stack([rate.trace(), minors, torch.linalg.det(rate)])
    torch.testing.assert_close(found, times(3, 3, 1), rtol=1e-14, atol=0)
    eigenvalues = torch.linalg.eigvals(rate)
    assert (eigenvalues - 1).abs().max() < 1e-4, "a triple root is known to (1e-16)^(1/3)"
