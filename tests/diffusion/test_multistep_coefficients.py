"""The coefficients of a multistep step: reference vectors and identities."""

import math

import numpy as np
import pytest
import torch

from psld.diffusion.multistep import ExponentialScheme
from psld.diffusion.process import LinearProcess
from psld.diffusion.roots import GAUSS_3, WhiteningRoot, magnus
from tests.diffusion.processes import (
    EVERY_KIND,
    normal,
    phase_space,
    times,
    vp_sde,
)
from tests.reference import load, mass_inverse, reference_files

KERNELS = [name for name in EVERY_KIND if not name.startswith("cld-dsm")]
"""The coefficients do not depend on the score matching, so DSM alone is enough."""

GRID = times(1.0, 0.6, 0.3, 0.12, 0.04, 0.01, 1e-3, 1e-4, 1e-5)


def reference_process(v) -> LinearProcess:
    if str(v["process"]) == "vp-sde":
        return vp_sde(beta_min=float(v["beta_min"]), beta_max=float(v["beta_max"]))
    assert str(v["process"]) == "psld"
    beta = float(v["beta"])
    return phase_space(
        float(v["gamma"]),
        mass_inverse=mass_inverse(v),
        kappa=float(v["kappa"]),
        beta_min=beta,
        beta_max=beta,
    )


@pytest.mark.parametrize("path", reference_files("multistep_*.npz"), ids=lambda path: path.stem)
def test_multistep_coefficients_agree_with_the_reference(path):
    v = load(path)
    start, end = times(float(v["t"])), times(float(v["s"]))
    scheme = ExponentialScheme(
        reference_process(v),
        str(v["root"]),
        1e-3,
        eta=float(v["eta"]),
        interpolation=str(v["interpolation"]),
    )
    noise = scheme.noise_factor(start, end)[0]
    nodes = torch.from_numpy(v["nodes"])
    assert len(nodes) == int(v["order"])
    tolerance = 1e-5 if str(v["root"]) == "flow" else 1e-6
    for found, expected in (
        (scheme.transition(start, end)[0], v["transition"]),
        (scheme.weights(start, end, nodes[None])[0], v["weights"]),
        (noise @ noise.T, v["noise_covariance"]),
    ):
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def step_coefficients(scheme: ExponentialScheme, order: int):
    """Return P, X and N of the steps of GRID through `order` nodes."""
    index = torch.arange(order - 1, len(GRID) - 1)
    nodes = GRID[index[:, None] - torch.arange(order)]
    start, end = GRID[index], GRID[index + 1]
    weights = scheme.weights(start, end, nodes)
    return start, end, scheme.transition(start, end), weights, scheme.noise_factor(start, end)


@pytest.mark.parametrize(
    ("root", "eta", "order", "interpolation"),
    [("straight", 0.5, 2, "sqrt-t"), ("flow", 1.5, 3, "lambda")],
)
@pytest.mark.parametrize("name", KERNELS)
def test_a_step_satisfies_both_moment_identities(name, eta, order, interpolation, root):
    """P a_t + Σ X = a_s and P Σ_t Pᵀ + N Nᵀ = Σ_s, relative to the standard deviations at s."""
    process = EVERY_KIND[name]
    scheme = ExponentialScheme(process, root, float(GRID[-1]), eta=eta, interpolation=interpolation)
    start, end, P, X, N = step_coefficients(scheme, order)
    covariance = process.image_covariance(end)
    deviation = torch.diagonal(covariance, dim1=1, dim2=2).sqrt()
    a = process.image_mean(start)[:, :, None]
    mean = (P @ a)[:, :, 0] + X.sum(dim=2)
    assert ((mean - process.image_mean(end)).abs() / deviation).max() < 1e-6
    found = P @ process.image_covariance(start) @ P.mT + N @ N.mT
    error = (found - covariance).abs() / (deviation[:, :, None] * deviation[:, None, :])
    assert error.max() < 1e-8


@pytest.mark.parametrize(
    ("name", "root", "interpolation"),
    [("cld", "flow", "t"), ("psld", "straight", "sqrt-t"), ("third", "straight", "lambda")],
)
def test_the_weights_solve_the_equation_of_the_whitened_state(name, root, interpolation):
    """X for a moving x̂₀ = τ(u), compared with a fine sum of dw = x̂₀ dc − η² (w − c x̂₀) dλ."""
    process = EVERY_KIND[name]
    start, end, eta = times(0.3), times(0.1), 0.7
    scheme = ExponentialScheme(process, root, 0.1, eta=eta, interpolation=interpolation)
    nodes = times(0.3, 0.5)[None]
    tau = {"t": torch.clone, "sqrt-t": torch.sqrt, "lambda": process.log_snr}[interpolation]
    found = scheme.weights(start, end, nodes)[0] @ tau(nodes[0])

    fine = torch.linspace(0.3, 0.1, 4001, dtype=torch.float64)
    whitened = torch.linalg.solve(scheme.root(fine), process.image_mean(fine)[:, :, None])[:, :, 0]
    log_snr = process.log_snr(fine)
    middle = tau((fine[1:] + fine[:-1]) / 2)
    decay = (-(eta**2) * (log_snr[-1] - (log_snr[1:] + log_snr[:-1]) / 2)).exp()
    push = whitened.diff(dim=0) + eta**2 * (
        (whitened[1:] + whitened[:-1]) / 2 * log_snr.diff()[:, None]
    )
    expected = scheme.root(end)[0] @ ((decay * middle)[:, None] * push).sum(dim=0)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", KERNELS)
def test_the_straight_root_leaves_the_image_in_one_coordinate(name):
    process = EVERY_KIND[name]
    root = WhiteningRoot(process, "straight", 1e-5)(GRID)
    c = torch.linalg.solve(root, process.image_mean(GRID)[:, :, None])[:, :, 0]
    rho = process.precision(GRID).sqrt()
    torch.testing.assert_close(c[:, 0] / rho, torch.ones_like(rho), rtol=1e-7, atol=0)
    assert (c[:, 1:].abs().sum(dim=1) / rho).max() < 1e-7


@pytest.mark.parametrize("name", ["cld", "third-upper"])
def test_the_flow_root_follows_the_probability_flow(name):
    """Ṙ = (F + ½ G Gᵀ Σ⁻¹) R by differences; this tests all of R, not only R Rᵀ = Σ."""
    process = EVERY_KIND[name]
    root, t, step = WhiteningRoot(process, "flow", 1e-3), times(0.8, 0.2, 0.02), 1e-5
    difference = (root(t * (1 + step)) - root(t * (1 - step))) / (2 * step * t)[:, None, None]
    inverse = torch.linalg.inv(process.image_covariance(t))
    slope = process.drift(t) + 0.5 * process.diffusion_squared(t) @ inverse
    torch.testing.assert_close(difference, slope @ root(t), rtol=1e-5, atol=1e-5)


def test_a_magnus_step_has_order_six():
    """On Ẏ = A(t) Y with matrices that do not commute, half a step has 1/128 of the error."""
    first, second = normal(2, 3, 3, seed=2)

    def solved(end: float, steps: int) -> torch.Tensor:
        y, h = torch.eye(3, dtype=torch.float64), end / steps
        for index in range(steps):
            at = [(index + share) * h for share in GAUSS_3]
            y = torch.linalg.matrix_exp(magnus(*(h * (first + t**2 * second) for t in at))) @ y
        return y

    errors = [float((solved(end, 1) - solved(end, 40)).norm()) for end in (0.8, 0.4)]
    assert math.log2(errors[0] / errors[1]) > 6.5


def test_order_one_is_ddim_for_a_single_block():
    """x_s = α_s x̂₀ + σ_s ε with ε = (x_t − α_t x̂₀)/σ_t."""
    process = vp_sde()
    scheme = ExponentialScheme(process, "straight", 1e-3)
    start, end = GRID[:-3], GRID[1:-2]
    alpha_t, alpha_s = process.image_mean(start), process.image_mean(end)
    sigma_t, sigma_s = (process.image_covariance(t)[:, :, 0].sqrt() for t in (start, end))
    torch.testing.assert_close(scheme.transition(start, end)[:, :, 0], sigma_s / sigma_t)
    weights = scheme.weights(start, end, start[:, None])[:, :, 0]
    torch.testing.assert_close(weights, alpha_s - alpha_t * sigma_s / sigma_t)


def test_noise_is_added_only_in_its_interval_of_levels():
    """A step that begins above the interval gets only the noise of the part inside the interval."""
    process = phase_space(0.02)
    inside, below, above = ((0.1, 0.05), (2e-3, 1e-3), (0.5, 0.05))
    levels = [float(process.noise_level(times(t))) for t in (*inside, below[0])]
    assert 1 > levels[0] > levels[1] > 0.02 > levels[2]
    always, limited = (
        [
            ExponentialScheme(process, "straight", 1e-3, eta=1.0, eta_interval=interval)
            .noise_factor(times(start), times(end))
            .norm()
            for start, end in (inside, below, above)
        ]
        for interval in (None, (0.02, 1.0))
    )
    assert float(limited[0]) == pytest.approx(float(always[0]), rel=1e-12)
    assert limited[1] == 0 < always[1]
    assert 0 < limited[2] < always[2]
