"""The image computed from ε, compared with Bayes' rule on data of two points, for every kind of
process."""

import pytest
import torch

from psld.diffusion.denoiser import (
    DataPrediction,
    check_prediction,
    consistent_eps,
    prediction_coefficients,
)
from psld.diffusion.matrices import mix
from psld.diffusion.score import GuidedScore, NetworkScore, class_gradient
from psld.utils.errors import UserError
from tests.diffusion.mixture import Mixture
from tests.diffusion.processes import EVERY_KIND, NOISY_POSITION, normal, recipe, times

CPU = torch.device("cpu")
POINTS = times(-0.8, 0.5)


@pytest.fixture(params=EVERY_KIND, name="process")
def _process(request):
    return EVERY_KIND[request.param]


def posterior(process, z: torch.Tensor, t: float) -> torch.Tensor:
    """Return p(x₀ | z) for the two points by Bayes' rule on z, N×2."""
    a, covariance = process.image_mean(times(t))[0], process.image_covariance(times(t))[0]
    off = z.flatten(1)[:, None, :] - POINTS[:, None] * a
    whitened = torch.linalg.solve_triangular(
        torch.linalg.cholesky(covariance), off.reshape(-1, len(a)).T, upper=False
    )
    return (-0.5 * whitened.square().sum(dim=0)).view(len(z), 2).softmax(dim=1)


def eps_given(process, z: torch.Tensor, t: float, x0: torch.Tensor) -> torch.Tensor:
    """Return E[ε | z, x₀] of the kernel on which the network is trained; with DSM, z₀ is integrated
    out.

    Given x₀, ε and z are jointly Gaussian with Cov(ε, z) = L_εᵀ, whatever the matching.
    """
    off = z - mix(process.image_mean(times(t))[0][:, None], x0)
    gain = process.covariance_factor(times(t))[0].mT
    return mix(gain @ torch.linalg.inv(process.image_covariance(times(t))[0]), off)


@pytest.mark.parametrize("t", [0.02, 1.0])
def test_the_predicted_image_is_the_posterior_mean(process, t):
    """For every kind of process, ε of a perfect network gives E[x₀ | z]."""
    x0 = POINTS[torch.arange(64) % 2].view(-1, 1, 1, 1)
    k = process.blocks
    z = process.perturb(x0, times(t).expand(64), normal(64, k, 1, 1), normal(64, k - 1, 1, 1))
    share = posterior(process, z, t)
    truth = (share @ POINTS).view(-1, 1, 1, 1)
    parts = torch.stack([eps_given(process, z, t, point + 0 * x0) for point in POINTS], dim=1)
    eps = (share.view(64, 2, 1, 1, 1) * parts).sum(dim=1)

    predict = DataPrediction(process, times(t), CPU)
    score = NetworkScore(lambda z, t: eps[:, process.predicted], batch_size=64)
    found = predict(0, z, score)
    torch.testing.assert_close(found, truth, atol=2e-6 * float(1 + predict.eps.abs().max()), rtol=0)
    assert score.evaluations == 1

    rows = prediction_coefficients(process, times(t))
    exact = mix(rows.state[0], z) + mix(rows.eps[0], eps[:, process.predicted])
    torch.testing.assert_close(exact, truth, atol=1e-9, rtol=1e-6)


def test_no_linear_estimate_is_less_sensitive_to_an_error_of_eps(process):
    """Least squares: |row| is the smallest of all rows with row · g = −1."""
    t = times(1e-3, 0.1, 1.0)
    _, g = consistent_eps(process, t)
    eps = prediction_coefficients(process, t).eps
    torch.testing.assert_close((eps @ g)[:, 0, 0], -torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(eps.norm(dim=2)[:, 0], 1 / g.norm(dim=1)[:, 0])


@pytest.mark.parametrize(("matching", "final_time"), [("hsm", 1e-3), ("dsm", 1e-5)])
def test_a_prediction_that_does_not_depend_on_the_image_is_refused(matching, final_time):
    process = recipe("recipe", matching=matching)
    with pytest.raises(UserError, match=r"t = 0\.417, 0\.809, where.* try factor: upper$"):
        check_prediction(process, final_time)
    with pytest.raises(UserError, match="process: the predicted ε does not depend on the image"):
        DataPrediction(process, times(1.0, final_time), CPU)
    check_prediction(recipe("recipe", matching=matching, factor="upper"), final_time)
    check_prediction(process, 0.85)  # a sampler that stops before time 0


def test_noise_on_the_position_alone_is_refused_under_the_upper_factor():
    process = recipe("recipe", **NOISY_POSITION, factor="upper")
    assert process.predicted_blocks == 1
    with pytest.raises(UserError, match="try factor: lower"):
        check_prediction(process, 1e-3)
    check_prediction(recipe("recipe", **NOISY_POSITION), 1e-3)


def test_a_guide_moves_the_image_as_bayes_rule_does(process):
    """With the classifier p(y = 1 | z) of the two points at scale 1, only the second remains."""
    t = 0.4
    z = normal(16, process.blocks, 1, 1)
    mixture = Mixture(weights=(0.5, 0.5), means=tuple(POINTS.tolist()), deviations=(1e-6, 1e-6))
    guide, labels = lambda z, _: posterior(process, z, t).log(), torch.ones(16, dtype=torch.long)
    plain = NetworkScore(mixture.network(process), batch_size=5)
    score = GuidedScore(plain, class_gradient(guide, labels, batch_size=5))
    found = DataPrediction(process, times(t), CPU)(0, z, score)
    torch.testing.assert_close(found, POINTS[1] + 0 * found, atol=1e-4, rtol=0)
