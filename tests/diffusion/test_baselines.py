"""gDDIM and conjugate integrators: orders, exactness, guidance, evaluations."""

import math

import numpy as np
import pytest
import torch

from psld.diffusion.loop import sample
from psld.diffusion.matrices import mix
from psld.diffusion.roots import WhiteningRoot
from psld.diffusion.score import NetworkScore
from tests.diffusion.processes import EVERY_KIND, normal, phase_space, times
from tests.diffusion.sampling import (
    conjugate,
    end,
    gaussian,
    gddim,
    multistep,
    rms,
)


@pytest.mark.parametrize(
    ("name", "order"), [("vp-sde", 1), ("psld", 3), ("third-upper", 2), ("varying", 2)]
)
def test_gddim_converges_with_its_order(name, order):
    process = EVERY_KIND[name]
    coarse, middle, fine = (
        end(process, gddim(n, order=order, denoise=False)) for n in (40, 80, 160)
    )
    assert math.log2(rms(coarse - middle) / rms(middle - fine)) > order - 0.45


@pytest.mark.parametrize(
    ("name", "conjugation", "strength"), [("vp-sde", "ones", -0.3), ("cld", "identity", 0.7)]
)
def test_conjugate_integrators_have_order_one_for_any_strength(name, conjugation, strength):
    """Compared with a fine multistep solution of the same ODE."""
    process = EVERY_KIND[name]
    choice = {"conjugation": conjugation, "strength": strength, "denoise": False}
    exact = end(process, multistep(100, root="flow", order=3, denoise=False))
    coarse, fine = (rms(end(process, conjugate(n, **choice)) - exact) for n in (60, 120))
    assert math.log2(coarse / fine) == pytest.approx(1, abs=0.35)


def test_one_step_of_gddim_is_exact_for_a_single_image():
    """If the data is one point, ε^R is constant along a trajectory."""
    process, image = phase_space(0.02), 0.4
    settings = gddim(2, order=1, denoise=False)
    start, final = settings.time_grid(process)[[0, -1]]
    noise = normal(16, 2, 1, 1)
    root = WhiteningRoot(process, "flow", float(final))
    mean = process.image_mean(torch.stack([start, final]))[:, :, None]
    roots = root(torch.stack([start, final]))
    x0 = torch.full((16, 1, 1, 1), image, dtype=torch.float64)
    first, last = (mix(a, x0) + mix(R, noise) for a, R in zip(mean, roots, strict=True))
    score = NetworkScore(gaussian(1e-6, mean=image).network(process), batch_size=16)
    torch.testing.assert_close(
        sample(process, settings, score, first, None), last, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("order", [1, 3])
def test_the_weights_of_gddim_are_integrals_over_time(order):
    """C_j = ∫_t^s ½ Ψ(s,u) G Gᵀ R_u⁻ᵀ ℓ_j(u) du, with ℓ_j the polynomials in u."""
    process, settings = phase_space(0.25), gddim(6, order=order, denoise=False)
    integrator, grid = settings.build(process, torch.device("cpu")), settings.time_grid(process)
    root = WhiteningRoot(process, "flow", float(grid[-1]))
    nodes, node_weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(40))
    for index, found in enumerate(integrator.weights):
        t, s = grid[index], grid[index + 1]
        u = t + (s - t) * (1 + nodes) / 2
        carried = process.transition_between(u, s.expand_as(u)) @ process.diffusion_squared(u)
        density = 0.5 * carried @ torch.linalg.inv(root(u)).mT
        past = grid[max(0, index + 1 - order) : index + 1].flip(0)
        expected = []
        for j, node in enumerate(past):
            others = torch.cat([past[:j], past[j + 1 :]])
            polynomial = ((u[:, None] - others) / (node - others)).prod(dim=1)
            share = (node_weights * polynomial * (s - t) / 2)[:, None, None]
            expected.append((share * density).sum(dim=0))
        torch.testing.assert_close(found.double(), torch.cat(expected, dim=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("conjugation", "strength"), [("identity", 0.7), ("ones", -0.3)])
def test_a_conjugate_step_equals_a_step_by_hand(conjugation, strength):
    """Under a constant β, T(s,u) = exp((s − u)(F − B)); any B would have order 1."""
    process = phase_space(0.25)
    settings = conjugate(4, conjugation=conjugation, strength=strength, denoise=False)
    integrator, grid = settings.build(process, torch.device("cpu")), settings.time_grid(process)
    B = strength * (torch.ones(2, 2) if conjugation == "ones" else torch.eye(2)).double()
    rate = process.drift(times(0.5))[0] - B
    t, s = grid[1], grid[2]
    u = torch.linspace(float(t), float(s), 4001, dtype=torch.float64)
    carried = torch.linalg.matrix_exp((s - u)[:, None, None] * rate)
    factor = torch.linalg.inv(process.covariance_factor(u)).mT
    density = 0.5 * carried @ process.diffusion_squared(u) @ factor
    expected = torch.trapezoid(density, u, dim=0)
    torch.testing.assert_close(integrator.weight[1].double(), expected, rtol=1e-4, atol=1e-5)
    moved = carried[0] @ (torch.eye(2).double() + (s - t) * B)
    torch.testing.assert_close(integrator.state[1].double(), moved, rtol=1e-4, atol=1e-5)
