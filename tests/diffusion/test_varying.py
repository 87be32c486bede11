"""Processes whose coefficients depend on time, compared with independent solvers."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp

from psld.diffusion import kernels
from psld.diffusion.integrators import SymmetricSplitting
from psld.diffusion.kernels import VaryingSDE
from psld.diffusion.matrices import check_diffusion
from psld.diffusion.multistep import polynomial_integrals
from psld.diffusion.process import LinearProcess
from psld.diffusion.roots import WhiteningRoot
from psld.diffusion.schedules import IntegratedBeta, LinearBeta
from psld.diffusion.settings import ConstantBeta, CosineBeta, LogLinearBeta, SigmoidBeta
from psld.diffusion.time_grid import time_of_noise_level
from psld.paper.integrators import _conjugate_coefficients
from psld.utils.errors import UserError
from tests.diffusion.processes import phase_space, recipe, sub_vp, times, varying, vp_sde


def exploding() -> LinearProcess:
    """The variance-exploding SDE: dσ²/dt for σ = 0.01 · 5000ᵗ."""
    growth = math.log(5000)
    return LinearProcess.of_sde(
        [[0.0]], lambda t: 2 * growth * (0.01 * (growth * t).exp()) ** 2, [50.0**2]
    )


def of_two_blocks() -> LinearProcess:
    """PSLD from its drift and G Gᵀ."""
    known = phase_space(0.02)
    F, squared = known.drift(0.0)[0], known.diffusion_squared(0.0)[0]
    return LinearProcess.of_sde(F, squared, [1, 0.25], initial_variance=[0, 0.01])


def chain(**choice) -> LinearProcess:
    """Third-order dynamics whose coupling and noise grow."""
    third = recipe()

    def noise(t):
        return (0.5 + t)[..., None, None] * third.D

    def coupling(t):
        return (1 + t * t)[..., None, None] * third.Q

    return LinearProcess(noise, coupling, [1, 0.75, 0.125], 9.0, **choice)


VARYING = {
    "friction": varying(lambda t: 8 * (0.2 + torch.sin(1.3 * t) ** 2)),
    "a jump": varying(),
    "sub-vp": sub_vp(),
    "ve": exploding(),
    "chain": chain(initial_variance=[0, 0.03, 0.005], numerical_eps=1e-9),
    "any schedule": LinearProcess(
        [[0.01, 0], [0, 0.5025]],
        [[0, -0.5], [0.5, 0]],
        [1, 0.25],
        lambda t: 8 * (0.2 + torch.sin(1.3 * t) ** 2),
        initial_variance=[0, 0.01],
    ),
}


def solve(process: LinearProcess, stops: list[float]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return Φ and C at ascending times from Φ̇ = FΦ and Ċ = FC + CFᵀ + GGᵀ."""
    k = process.blocks

    def slope(t, y, middle):
        # A step that ends at a jump must not see the value after the jump.
        t = torch.tensor([t + 1e-14 * np.sign(middle - t)], dtype=torch.float64)
        F, P = process.drift(t)[0].numpy(), process.diffusion_squared(t)[0].numpy()
        phi, C = y.reshape(2, k, k)
        return np.stack([F @ phi, F @ C + C @ F.T + P]).ravel()

    y, found = np.stack([np.eye(k), np.zeros((k, k))]).ravel(), {}
    for start, end in pairwise([0.0, *sorted({*stops, *process.jumps})]):
        given = {"rtol": 3e-14, "atol": 1e-30, "args": ((start + end) / 2,)}
        y = solve_ivp(slope, (start, end), y, "DOP853", **given).y[:, -1]
        found[end] = y.reshape(2, k, k)
    return [found[t] for t in stops]


@pytest.mark.parametrize("name", VARYING)
def test_the_moments_solve_their_differential_equations(name):
    process, stops = VARYING[name], [1e-3, 0.02, 0.3, 0.62, 1.0]
    phi, C = process.sde.moments(times(*stops))
    for i, (exact_phi, exact_C) in enumerate(solve(process, stops)):
        spread = np.sqrt(np.diag(exact_C))
        error = np.abs(C[i].numpy() - exact_C) / np.outer(spread, spread)
        assert error.max() < 1e-9
        assert np.abs(phi[i].numpy() - exact_phi).max() < 1e-9 * np.abs(exact_phi).max()


@pytest.mark.parametrize("power", [0.1, 0.5, 0.9])
def test_moments_have_ten_digits_also_if_a_coefficient_is_not_smooth_at_0(power):
    """The first piece must not make the moments at early times inaccurate."""

    def beta(t):
        return 8 * (1 + power) * t**power

    process = LinearProcess(lambda t: 0.5, [[0]], [1], beta, initial_variance=[0])
    t = times(1e-5, 1e-4, 1e-3, 1.0)
    exact = -torch.expm1(-8 * t ** (1 + power))[:, None, None]
    torch.testing.assert_close(process.covariance(t), exact, rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", VARYING)
def test_transitions_compose_in_both_directions(name):
    process = VARYING[name]
    start, end = times(0, 0.2, 0.39, 0.301, 0.302, 0.9), times(0.5, 0.9, 0.41, 0.302, 0.301, 0.6)
    moved = process.transition_between(start, end) @ process.transition(start)
    torch.testing.assert_close(moved, process.transition(end), rtol=1e-9, atol=1e-12)


def test_functions_that_are_constant_have_the_kernel_of_constants():
    known, t = phase_space(0.02), times(1e-6, 1e-4, 0.1, 0.37, 1.0)
    D = known.D
    process = LinearProcess(
        lambda t: D, known.Q, [1, 0.25], 8.0, initial_variance=[0, 0.01], numerical_eps=1e-9
    )
    assert isinstance(process.sde, VaryingSDE)
    for method in ("transition", "covariance", "score_matrix", "drift", "diffusion", "log_snr"):
        found, expected = getattr(process, method)(t), getattr(known, method)(t)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)
    start, end = times(0.3, 0.9), times(0.7, 0.05)
    expected = known.transition_between(start, end)
    torch.testing.assert_close(process.transition_between(start, end), expected)


def test_transitions_are_accurate_where_a_mode_has_decayed():
    """If the friction is far above the critical friction, Φ(t) is numerically singular."""
    D, form = torch.tensor([[0, 0], [0, 1.0]], dtype=torch.float64), {"initial_variance": [0, 0.01]}
    form |= {"Q": [[0, -0.5], [0.5, 0]], "S": [1, 0.25], "beta": 14.0, "numerical_eps": 1e-9}
    process, known = LinearProcess(lambda t: D, **form), LinearProcess(D, **form)
    start, end = times(0.9, 0.7, 0.01), times(0.88, 0.72, 0.99)
    found, expected = (each.transition_between(start, end) for each in (process, known))
    largest = expected.abs().amax(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(found / largest, expected / largest, rtol=0, atol=1e-9)


def test_tensors_of_times_may_have_any_shape():
    process, t = varying(), times(0.1, 0.5, 0.9, 0.3, 0.2, 0.7)
    for method in (process.transition, process.covariance, process.score_matrix):
        torch.testing.assert_close(method(t.view(2, 3)), method(t).view(2, 3, 2, 2))


def test_moments_are_not_reused_for_times_that_change_in_place():
    process, t = varying(), times(0.3, 0.6)
    before = process.covariance(t)
    t += 0.1
    assert not torch.allclose(process.covariance(t), before, rtol=0.05)


def test_moments_may_be_changed_in_place():
    process, t = varying(), times(0.3, 0.6)
    level, a = process.noise_level(t), process.image_mean(t)
    a *= 0.5
    torch.testing.assert_close(process.noise_level(t), level, rtol=0, atol=0)


def test_blocks_with_noise_at_some_time_are_predicted():
    late = LinearProcess(
        lambda t: [[torch.relu(t - 0.7), 0.0], [0.0, 0.5]],
        [[0.0, -0.5], [0.5, 0.0]],
        [1.0, 0.25],
        8.0,
        initial_variance=[0.0, 0.01],
        numerical_eps=1e-9,
    )
    assert late.predicted == slice(0, 2)
    assert phase_space(0.0).predicted == slice(1, 2)


def test_the_end_of_a_process_must_be_its_prior():
    assert float(exploding().precision(1.0).sqrt()) == pytest.approx(0.02, rel=1e-3)
    with pytest.raises(UserError, match=r"its covariance at the final time is \[\[2500"):
        LinearProcess.of_sde([[0.0]], lambda t: 5000 * t, [2000.0])
    with pytest.raises(UserError, match=r"0\.5 of the image remains"):
        LinearProcess.of_sde([[0.0]], lambda t: 8 * t, [4.0])
    with pytest.raises(UserError, match=r"G Gᵀ must be symmetric and positive semi-definite"):
        LinearProcess.of_sde([[0.0]], lambda t: 8 * (0.5 - t), [4.0])
    with pytest.raises(UserError, match="Q must be skew-symmetric"):
        LinearProcess(
            lambda t: torch.eye(2), [[0, 1], [1, 0]], [1, 1], 8.0, initial_variance=[0, 1]
        )


def test_moments_are_accurate_also_if_a_jump_is_not_named():
    def noise(t):
        return torch.where(t < 0.3, 1.0, 9.0)

    t = times(0.2, 0.31, 0.9)
    for constant in ({}, {"drift": [[-9.0]]}, {"diffusion_squared": [[18.0]]}):
        form = {"drift": lambda t: -noise(t), "diffusion_squared": lambda t: 2 * noise(t)}
        form |= constant | {"prior_variance": [1.0]}
        named, unnamed = (LinearProcess.of_sde(**form, jumps=jumps) for jumps in ([0.3], ()))
        torch.testing.assert_close(unnamed.covariance(t), named.covariance(t), rtol=1e-9, atol=0)
    exact = times(0.2, 0.3 + 9 * 0.01, 0.3 + 9 * 0.6)
    torch.testing.assert_close(IntegratedBeta(noise).integral(t), exact, rtol=1e-11, atol=0)


@pytest.mark.parametrize(
    "drift", [[[-4.0]], torch.tensor([[-4.0]]), [[-4.0, 0, 0], [0, -4, 0]], lambda t: -4 * t]
)
def test_coefficients_of_another_size_are_refused(drift):
    with pytest.raises(UserError, match=r"a coefficient has .* it must be 2×2 at each time"):
        LinearProcess.of_sde(drift, torch.eye(2), [1.0, 1.0])


def test_noise_of_rank_one_may_be_large():
    """The rounding errors of the covariance are larger than small noise."""
    g = torch.tensor([[1.0], [0.5], [0.3]], dtype=torch.float64)
    for scale in (1e-13, 1.0, 1e4, 1e8):
        check_diffusion(scale * g @ g.T, "G Gᵀ")
        with pytest.raises(UserError, match="positive semi-definite"):
            check_diffusion(scale * torch.diag(times(1.0, -1e-6)), "G Gᵀ")


def test_noise_may_begin_at_a_time_that_is_not_named(monkeypatch):
    """In the piece in which the noise begins, halving never makes the relative error small."""
    monkeypatch.setattr(kernels, "MOST_PIECES", 200)
    process = LinearProcess.of_sde([[0.0]], lambda t: 800 * torch.relu(t - 0.3), [196.0])
    t = times(0.2, 0.31, 1.0)
    exact = 400 * torch.relu(t - 0.3)[:, None, None] ** 2
    torch.testing.assert_close(process.covariance(t), exact, rtol=1e-10, atol=0)


def test_coefficients_that_never_become_smooth_are_refused(monkeypatch):
    def rough(t):
        return 5 + 4 * torch.sin(1e4 * t)

    monkeypatch.setattr(kernels, "MOST_PIECES", 64)
    with pytest.raises(UserError, match=r"do not converge near t = 0; name the times"):
        LinearProcess.of_sde(lambda t: -rough(t), lambda t: 2 * rough(t), [1.0])
    with pytest.raises(UserError, match=r"do not converge near t = 0; name the times"):
        IntegratedBeta(rough)


def test_sscs_alone_needs_constant_matrices():
    for process in (varying(), of_two_blocks()):
        with pytest.raises(UserError, match=r"sscs needs constant matrices .* use em, rk45"):
            SymmetricSplitting(process, times(1, 0.5, 0.1), torch.device("cpu"))
    assert SymmetricSplitting(VARYING["any schedule"], times(1, 0.5), torch.device("cpu")).draws


def test_noise_levels_are_inverted_where_nothing_happens():
    """β = 0 on [0.2, 0.6]: σ_eff is constant there, and Newton's method divides 0 by 0."""

    def beta(t):
        return 9 * ((t - 0.6).clamp(min=0) + (0.2 - t).clamp(min=0)) ** 0.5

    paused = IntegratedBeta(lambda t: 5 * beta(t), jumps=[0.2, 0.6])
    process = vp_sde_with(paused)
    low, high = process.noise_level(times(1e-3, 1.0)).tolist()
    pause = float(process.noise_level(0.4))
    near = [pause * (1 + off) for off in (0, 1e-13, 1e-9, -1e-9, 1e-6, -1e-6)]
    levels = times(*np.geomspace(low, high, 300), *near)
    t = time_of_noise_level(process, levels, 1e-3)
    assert t.isfinite().all()
    torch.testing.assert_close(process.noise_level(t), levels, rtol=1e-10, atol=0)


def vp_sde_with(beta) -> LinearProcess:
    return LinearProcess([[0.5]], [[0.0]], [1.0], beta, initial_variance=[0.0], numerical_eps=1e-9)


@pytest.mark.parametrize("interpolation", ["t", "lambda"])
def test_quadratures_are_split_at_jumps(interpolation):
    """The integral over a step that contains a jump is the sum of the integrals over its parts."""
    process, nodes = varying(), times(0.6, 0.7)[None]
    jump, (start, end) = times(0.4), (times(0.6), times(0.2))

    def integral(first, last):
        def curve(t):
            return process.image_mean(t)

        return polynomial_integrals(process, curve, interpolation, first, last, nodes)

    parts = integral(start, jump) + integral(jump, end)
    torch.testing.assert_close(integral(start, end), parts, rtol=1e-9, atol=1e-11)


def test_conjugate_steps_are_split_at_jumps():
    process, B = varying(), torch.tensor([[0.3, 0.1], [0.1, 0.2]], dtype=torch.float64)
    start, jump, end = times(0.6), times(0.4), times(0.2)
    first, before = _conjugate_coefficients(process, B, start, jump)
    second, after = _conjugate_coefficients(process, B, jump, end)
    whole, weight = _conjugate_coefficients(process, B, start, end)
    torch.testing.assert_close(whole, second @ first, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(weight, second @ before + after, rtol=1e-7, atol=1e-9)


def test_a_jump_of_a_plain_schedule_is_named_as_those_of_the_matrices():
    form = {"S": [1, 0.25], "initial_variance": [0, 0.01], "numerical_eps": 1e-9}
    form |= {"Q": [[0, -0.5], [0.5, 0]]}

    def beta(t):
        return torch.where(t < 0.3, 2.0, 10.0)

    D = torch.tensor([[0.125, 0], [0, 0.53125]])
    for noise in (D, lambda t: D):
        plain = LinearProcess(noise, **form, beta=beta, jumps=[0.3])
        named = LinearProcess(noise, **form, beta=IntegratedBeta(beta, jumps=[0.3]))
        assert plain.jumps == named.jumps == (0.3,)
        found, expected = (WhiteningRoot(each, "flow", 1e-3)(times(0.2)) for each in (plain, named))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert LinearProcess(D, **form, beta=LinearBeta(8, 8), jumps=[0.3]).jumps == (0.3,)


def test_the_flow_root_follows_its_differential_equation_across_a_jump():
    process = varying()
    root = WhiteningRoot(process, "flow", 1e-3)
    start, end = times(0.9), times(0.1)

    def slope(t, y, middle):
        t = torch.tensor([t + 1e-14 * np.sign(middle - t)], dtype=torch.float64)
        pull = process.image_diffusion_squared(t) @ torch.linalg.inv(process.image_covariance(t))
        return ((process.drift(t) + 0.5 * pull)[0].numpy() @ y.reshape(2, 2)).ravel()

    y = root(start)[0].numpy().ravel()
    for first, last in ((0.9, 0.4), (0.4, 0.1)):
        given = {"rtol": 1e-12, "atol": 1e-13, "args": ((first + last) / 2,)}
        y = solve_ivp(slope, (first, last), y, "DOP853", **given).y[:, -1]
    np.testing.assert_allclose(root(end)[0].numpy(), y.reshape(2, 2), rtol=1e-7, atol=1e-8)


SCHEDULES = {
    "linear": LinearBeta(0.1, 20.0),
    "constant": ConstantBeta(value=8),
    "cosine": CosineBeta(),
    "sigmoid": SigmoidBeta(),
    "log-linear": LogLinearBeta(),
    "flat": LogLinearBeta(low=8, high=8),
    "function": IntegratedBeta(lambda t: 8 * (0.2 + torch.sin(1.3 * t) ** 2)),
    "kink": IntegratedBeta(lambda t: 9 * (t / 0.2).clamp(max=1), jumps=[0.2]),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_integral_of_a_schedule(name):
    beta, stops = SCHEDULES[name], [1e-5, 0.01, 0.2, 0.55, 1.0]
    found, total = beta.integral(times(*stops)), 0.0
    for i, (start, end) in enumerate(pairwise([0.0, *stops])):
        total += quad(lambda t: float(beta(times(t))), start, end, epsabs=0, epsrel=1e-13)[0]
        assert float(found[i]) == pytest.approx(total, rel=1e-11)


def test_the_cosine_schedule_is_that_of_nichol_and_dhariwal_with_an_end():
    beta, t = CosineBeta(left=0.02), times(0.1, 0.5, 0.9)

    def original(t):
        return torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    cut = (math.acos(0.02 * math.cos(0.008 / 1.008 * math.pi / 2)) * 2 / math.pi) * 1.008 - 0.008
    expected = original(cut * t) / original(times(0.0))
    torch.testing.assert_close((-beta.integral(t)).exp(), expected, rtol=1e-12, atol=0)
    assert float((-beta.integral(times(1.0)) / 2).exp()) == pytest.approx(0.02, rel=1e-12)


def test_processes_choose_a_schedule_by_name():
    assert str(vp_sde(beta="linear").beta) == "LinearBeta(beta_min=0.1, beta_max=20.0)"
    assert isinstance(vp_sde(beta={"kind": "sigmoid", "high": 30}).beta, SigmoidBeta)
    with pytest.raises(UserError, match="vp-sde: beta_min belongs to the linear schedule"):
        vp_sde(beta="cosine", beta_min=0.2)
