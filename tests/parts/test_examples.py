"""The examples that contain mathematics: flows.py and churn.py of docs/examples."""

from math import pi, sqrt
from types import SimpleNamespace

import pytest
import torch

import psld
from psld.data.store import ImageStore
from psld.data.units import from_uint8
from psld.diffusion.loss import Batch
from psld.diffusion.matrices import mix
from psld.diffusion.samplers import SamplerSettings
from psld.diffusion.settings import NoiseLaw
from psld.parts import Objective
from tests.commands import TINY, call, succeeded
from tests.diffusion.processes import normal, phase_space, vp_sde
from tests.diffusion.sampling import MIXTURE, end, final_moments, gaussian, marginal

# -- flows.py --------------------------------------------------------------------------------------

PATHS = {
    "flows:RectifiedFlow": lambda t: (1 - t, t, -1, 1),
    "flows:VPrediction": lambda t: (
        *((pi * t / 2).cos(), (pi * t / 2).sin()),
        *(-(pi * t / 2).sin(), (pi * t / 2).cos()),
    ),
}
"""For each objective, a function of the times t that returns a, b and their derivatives a' and b',
with the formulas of the paper."""
FACTS = SimpleNamespace(law=NoiseLaw())
LEVELS = torch.logspace(-4.5, 3, 16, dtype=torch.float64)


@pytest.mark.parametrize("kind", PATHS)
def test_a_flow_s_exact_velocity_is_the_exact_denoiser(outside, kind):
    """Test one Gaussian, for which E[v | x_t] is linear in x_t."""
    data = gaussian(0.3, mean=0.5)

    def velocity(x, t):
        a, b, slope_a, slope_b = (0 * x + each for each in PATHS[kind](t[:, None, None, None]))
        gain = (a * slope_a * 0.3**2 + b * slope_b) / (a**2 * 0.3**2 + b**2)
        return slope_a * 0.5 + gain * (x - a * 0.5)

    denoiser = Objective.model_validate(kind).wrap(velocity, FACTS)
    sigma = LEVELS[:, None, None, None]
    y = 0.5 + (0.3**2 + sigma**2).sqrt() * normal(len(LEVELS), 1, 4, 4)
    torch.testing.assert_close(denoiser(y, LEVELS), data.denoise(y, sigma), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", PATHS)
def test_a_flow_s_loss_is_the_error_of_the_velocity(outside, kind):
    objective, seen = Objective.model_validate(kind), []
    x0, noise, predicted = normal(3, len(LEVELS), 1, 4, 4)

    def network(x, t):
        seen[:] = x, t
        return predicted

    batch = Batch(x0, LEVELS, noise, None, noising=objective.noising(FACTS))
    loss = objective.loss(objective.wrap(network, FACTS), batch)
    x, t = seen
    assert ((t > 0) & (t <= 1)).all(), "of which a network may take the logarithm"
    a, b, slope_a, slope_b = PATHS[kind](t[:, None, None, None])
    torch.testing.assert_close(x, a * x0 + b * noise)
    torch.testing.assert_close(loss, (predicted - slope_a * x0 - slope_b * noise).square().mean())


def test_the_times_of_rectified_flow_are_uniform(outside):
    objective, times = Objective.model_validate("flows:RectifiedFlow"), torch.linspace(0.1, 0.9, 5)
    levels = objective.noising(FACTS).levels(times)
    torch.testing.assert_close(objective.path(levels)[0], times)


@pytest.mark.parametrize("kind", PATHS)
def test_a_flow_is_trained_and_sampled_as_every_process(outside, digits, starts, kind):
    """After a second of training, the samples have the mean and the standard deviation of the
    digits."""
    words = (f"training.objective={kind}", f"data={digits}", "training.learning_rate=5e-3")
    succeeded(call(outside, "train", *TINY, *words, "training.steps=60", "name=flow"))
    (outside / "starts").symlink_to(starts / "starts")
    model = psld.load("by-hand/flow")
    data = from_uint8(torch.tensor(ImageStore.open(digits).images("train")))
    for process in ("vp-sde", "psld"):
        for sampler, steps in (("few", 3), ("multistep", 8)):
            images = model.sample(64, process=process, sampler=sampler, steps=steps, raw=True)
            assert (images.mean(0) - data.mean(0)).abs().mean() < 0.15
            assert float(images.std()) == pytest.approx(float(data.std()), rel=0.2)


# -- churn.py --------------------------------------------------------------------------------------

PROCESSES = {"vp-sde": vp_sde(), "psld": phase_space(0.02), "cld": phase_space(0.0)}


def heun(steps: int, **choice) -> SamplerSettings:
    given = {"integrator": "churn:Heun", "striding": "edm", "final_time": 1e-2, "steps": steps}
    return SamplerSettings.model_validate(given | choice)


@pytest.mark.parametrize("churn", [0.0, 20.0])
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_heun_s_method_samples_a_gaussian_with_order_two(outside, process, churn):
    """The order is also two with churn, because the added noise is exact for any step size."""
    data, errors = gaussian(0.3, mean=0.5), []
    for steps in (80, 160):
        settings = heun(steps, denoise=False, s_churn=churn, s_noise=1.0)
        found = final_moments(process, settings, data)
        exact = marginal(process, settings.final_time, data)
        pairs = zip(found, exact, strict=True)
        errors.append(max(float((a - b).abs().max()) for a, b in pairs))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.15)
    assert errors[1] < 0.02


def algorithm_2(denoise, x, levels, noises, s_churn, s_tmin, s_tmax, s_noise):
    """Algorithm 2 of Karras et al. (2022) in their notation: t is σ, and the last level is 0."""
    steps = len(levels) - 1
    for i in range(steps):
        t, after = levels[i], levels[i + 1]
        gamma = min(s_churn / steps, sqrt(2) - 1) if s_tmin <= t <= s_tmax else 0
        hat = t + gamma * t
        if gamma > 0:
            x = x + (hat**2 - t**2) ** 0.5 * s_noise * noises[i]
        d = (x - denoise(x, hat)) / hat
        moved = x + (after - hat) * d
        if after > 0:
            d = (d + (moved - denoise(moved, after)) / after) / 2
        x = x + (after - hat) * d
    return x


@pytest.mark.parametrize("s_churn", [4.0, 40.0])  # γ = 0.4, and the largest γ
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_heun_s_method_is_algorithm_2_of_karras(outside, process, s_churn):
    """The example makes the same number of evaluations: two in each step except the last step."""
    churn, asked = {"s_churn": s_churn, "s_tmin": 0.05, "s_tmax": 20.0, "s_noise": 1.003}, []
    settings = heun(19, final_time=1e-3, **churn)
    grid = settings.time_grid(process)
    sigma, noises = process.noise_level(grid), normal(len(grid), 64, process.blocks, 1, 1, seed=1)
    drawn = iter(noises[(sigma >= 0.05) & (sigma <= 20)])

    def network(z, t):
        asked.append(t)
        return MIXTURE.network(process)(z, t)

    z = process.prior(normal(64, process.blocks, 1, 1))
    images = end(process, settings, network, noise=lambda z: next(drawn), start=z)
    assert len(asked) == settings.evaluations == 19
    assert not list(drawn)
    a = process.image_mean(grid[:1])[:, :, None]
    row = torch.linalg.solve(process.image_covariance(grid[:1]), a).mT
    levels = [*sigma, torch.zeros(())]
    y = mix(row / (row @ a), z)
    expected = algorithm_2(MIXTURE.denoise, y, levels, noises[:, :, :1], **churn)
    torch.testing.assert_close(images[:, :1], expected, rtol=0, atol=1e-4)
