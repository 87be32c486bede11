"""The multistep sampler: marginals, orders, special cases, guidance and inpainting."""

import math
from functools import partial

import pytest
import torch

from benchmarks.exact import error, fitted_order
from psld.diffusion.denoiser import DataPrediction, consistent_eps, prediction_coefficients
from psld.diffusion.loop import path, sample
from psld.diffusion.matrices import mix
from psld.diffusion.multistep import ExponentialScheme
from psld.diffusion.score import NetworkScore
from tests.diffusion.processes import EVERY_KIND, normal, phase_space, recipe
from tests.diffusion.sampling import (
    MIXTURE,
    end,
    final_moments,
    gaussian,
    gddim,
    marginal,
    multistep,
    rk45,
    rms,
)


def check_moments(process, settings, data, tolerance):
    mean, covariance = final_moments(process, settings, data)
    expected_mean, expected = marginal(process, settings.final_time, data)
    deviation = torch.diagonal(expected).sqrt()
    error = (covariance - expected).abs() / torch.outer(deviation, deviation)
    assert error.max() < tolerance
    assert ((mean - expected_mean).abs() / deviation).max() < tolerance


@pytest.mark.parametrize(
    ("name", "eta", "root"),
    [("vp-sde", 1.0, "flow"), ("psld", 0.0, "flow"), ("third", 2.0, "straight")],
)
def test_five_steps_keep_the_marginals_of_a_single_image(name, eta, root):
    """For every root and η, a step of any size is exact if x̂₀ is constant."""
    settings = multistep(5, root=root, eta=eta, order=2, denoise=False)
    check_moments(EVERY_KIND[name], settings, gaussian(1e-6, mean=0.6), 2e-4)


@pytest.mark.parametrize(
    ("name", "eta", "corrector", "root"),
    [("vp-sde", 0.5, True, "flow"), ("psld", 1.5, False, "straight"), ("third", 0.5, True, "flow")],
)
def test_fine_steps_keep_the_marginals_of_gaussian_data(name, eta, corrector, root):
    settings = multistep(100, root=root, eta=eta, order=2, denoise=False, corrector=corrector)
    check_moments(EVERY_KIND[name], settings, gaussian(0.3, mean=0.6), 0.04)


@pytest.mark.parametrize(("root", "order"), [("straight", 1), ("flow", 3)])
def test_with_noise_the_weak_order_is_two_at_most(root, order):
    process, data, steps = phase_space(0.02), gaussian(0.3), (60, 120)
    grids = [multistep(n, root=root, eta=1.0, order=order) for n in steps]
    found = fitted_order(steps, [error(process, settings, data) for settings in grids])
    assert found == pytest.approx(min(order, 2), abs=0.5)


@pytest.mark.parametrize(
    ("name", "root", "order", "corrector", "expected"),
    [
        ("vp-sde", "straight", 1, False, 1),
        ("psld", "flow", 2, False, 2),
        ("psld", "straight", 3, False, 3),
        ("third", "straight", 2, True, 3),
        ("third", "flow", 3, False, 3),
    ],
)
def test_orders_of_convergence_on_a_mixture(name, root, order, corrector, expected):
    """Return the ratio of two changes: when the number of steps is doubled, and doubled again."""
    process = EVERY_KIND[name]
    interpolation = {1: "t", 2: "lambda", 3: "sqrt-t"}[order]
    coarse, middle, fine = (
        end(
            process,
            multistep(
                n + 1, root=root, order=order, corrector=corrector, interpolation=interpolation
            ),
        )[:, :1]
        for n in (16, 32, 64)
    )
    assert math.log2(rms(coarse - middle) / rms(middle - fine)) > expected - 0.5


def test_the_flow_root_agrees_with_rk45_on_the_projected_noise():
    """This is tested before the denoising step, with a network whose blocks of ε imply different
    images."""
    process = phase_space(0.02)
    perfect = MIXTURE.network(process)

    def network(z, t):
        error = (
            0.2 * torch.tanh(z[:, process.predicted]) / (1 + process.noise_level(t[:1].double()))
        )
        return perfect(z, t) + error

    def projected(z, t):
        time = t[:1].double()
        rows = prediction_coefficients(process, time)
        image = mix(rows.state[0], z) + mix(rows.eps[0], network(z, t))
        state, data = consistent_eps(process, time)
        return mix(state[0], z) - mix(data[0], image)

    choice = {"denoise": False, "final_time": 0.02}
    flow = end(process, multistep(120, root="flow", order=3, **choice), network)
    exact, other = (end(process, rk45(3e-4, **choice), each) for each in (projected, network))
    assert rms(flow - exact) < 2e-3
    assert rms(flow - other) > 10 * rms(flow - exact), "the projection does something here"


@pytest.mark.parametrize("name", ["cld", "third-upper"])
def test_order_one_in_the_flow_root_is_gddim(name):
    """Test a perfect network, whose ε is consistent."""
    process = EVERY_KIND[name]
    choice = {"striding": "quadratic", "order": 1, "denoise": False}
    ours, theirs = (
        end(process, settings)
        for settings in (multistep(8, root="flow", **choice), gddim(8, **choice))
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("made", "root"), [(partial(phase_space, 0.0), "flow"), (recipe, "straight")]
)
def test_matchings_factors_and_predictions_give_the_same_images(made, root):
    """The processes differ only in the target of the network, and the network is perfect."""
    first, *others = (
        end(made(matching=matching, factor=factor), multistep(10, root=root))[:, :1]
        for matching, factor in (("hsm", "lower"), ("dsm", "lower"), ("dsm", "upper"))
    )
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("corrector", [False, True])
def test_the_number_of_evaluations_equals_the_number_of_steps(corrector):
    process = phase_space(0.02)
    for steps, denoise in ((2, True), (6, True), (2, False), (6, False)):
        settings = multistep(steps, order=3, corrector=corrector, eta=1.0, denoise=denoise)
        score = NetworkScore(MIXTURE.network(process), batch_size=3)
        calls = []
        z = process.prior(normal(4, 2, 1, 1))
        states = list(path(process, settings, score, z, lambda z, c=calls: c.append(0) or 0 * z))
        grid = settings.time_grid(process).tolist()
        assert score.evaluations == settings.evaluations == steps
        assert [t for t, _ in states] == ([*grid, 0.0] if denoise else grid)
        assert len(calls) == len(grid) - 1, "noise once a step, none at the end"


def _start(process, count: int = 8):
    score = NetworkScore(MIXTURE.network(process), batch_size=count)
    return score, process.prior(normal(count, process.blocks, 1, 1)), None


@pytest.mark.parametrize(
    ("order", "corrector", "interpolation"),
    [(1, True, "lambda"), (2, False, "sqrt-t"), (3, True, "t")],
)
def test_multistep_equals_steps_by_hand(order, corrector, interpolation):
    """Predict, repeat the last step with the new prediction, and take the next step."""
    process, count = phase_space(0.02), 8
    chosen = {"order": order, "corrector": corrector, "interpolation": interpolation}
    chosen |= {"root": "flow", "eta": 0.8, "eta_interval": (0.05, 3.0)}
    settings = multistep(6, final_time=1e-5, **chosen)
    grid = settings.time_grid(process)
    scheme = ExponentialScheme(
        process, "flow", float(grid[-1]),
        eta=0.8, eta_interval=(0.05, 3.0), interpolation=interpolation,
    )  # fmt: skip
    score, z, _ = _start(process, count)
    xi = normal(count, 2, 1, 1, seed=7)
    found = sample(process, settings, score, z, lambda _: xi)

    def combined(index: int, nodes: list[int], data: dict) -> torch.Tensor:
        """Return Σ X x̂₀ of the step that begins at `index`."""
        step = grid[index : index + 1], grid[index + 1 : index + 2], grid[nodes][None]
        return mix(scheme.weights(*step)[0], torch.cat([data[node] for node in nodes], dim=1))

    predict, data = DataPrediction(process, grid, torch.device("cpu")), {}
    for index in range(5):
        data[index] = predict(index, z, score)
        past = list(range(index, -1, -1))
        if corrector and index > 0:
            z = base + combined(index - 1, past[: order + 1], data)  # noqa: F821
        step = grid[index : index + 1], grid[index + 1 : index + 2]
        noise = mix(scheme.noise_factor(*step)[0], xi)
        base = mix(scheme.transition(*step)[0], z) + noise
        z = base + combined(index, past[:order], data)
    expected = torch.cat([predict(5, z, score), z[:, 1:]], dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("eta", "draws"), [(0.0, 0), (1e-4, 4)])
def test_any_noise_is_drawn_in_every_step_except_the_last(eta, draws):
    assert multistep(5, eta=eta).build(phase_space(0.02), torch.device("cpu")).draws == draws


def test_an_integrator_resets_its_history_for_each_sample():
    process, settings = phase_space(0.02), multistep(6, order=3, corrector=True)
    integrator = settings.build(process, torch.device("cpu"))
    score, start, _ = _start(process)
    ends = []
    for _ in range(2):
        z = start
        for index in range(len(integrator.times)):
            z = integrator.step(index, z, score, None)
        ends.append(z)
    assert torch.equal(*ends)
