"""Guidance toward a class with an exactly known distribution."""

import math

import pytest
import torch
from torch import Tensor

from psld.diffusion.loop import sample
from psld.diffusion.process import LinearProcess
from psld.diffusion.score import GuidedScore, NetworkScore, class_gradient
from tests.diffusion.mixture import Mixture
from tests.diffusion.processes import phase_space, times, varying, vp_sde
from tests.diffusion.sampling import conjugate, gaussian, gddim, marginal, multistep, rk45, sde

MEAN, VARIANCE = 0.8, 0.05
"""Data of one pixel in two classes: x₀ ~ N(±MEAN, VARIANCE), so score and guide are known exactly.
"""

PROCESSES = {
    "psld": phase_space(0.25),
    "cld": phase_space(0.0),
    "vp-sde": vp_sde(),
    "varying": varying(),
}
SAMPLERS = {
    "em": sde("em", striding="quadratic", steps=60),
    "sscs": sde("sscs", striding="quadratic", steps=60),
    "rk45": rk45(1e-3, final_time=1e-3),
    "multistep": multistep(20, final_time=1e-3, corrector=True),
    "gddim": gddim(60, final_time=1e-3),
    "conjugate": conjugate(100, strength=0, final_time=1e-3),
}
DEVIATION = VARIANCE**0.5
BOTH = Mixture(weights=(0.5, 0.5), means=(-MEAN, MEAN), deviations=(DEVIATION, DEVIATION))


def score_of(process: LinearProcess, data: Mixture) -> NetworkScore:
    return NetworkScore(data.network(process), batch_size=1000)


def exact_guide(process: LinearProcess):
    """Return log p(z_t | y) up to a constant, N×2; all states have the same time."""

    def logits(z: Tensor, t: Tensor) -> Tensor:
        mean, covariance = marginal(process, float(t[0]), gaussian(DEVIATION, MEAN))
        flat = z.flatten(1).double()
        signed = torch.stack([flat + mean, flat - mean])
        return -0.5 * (signed @ torch.linalg.inv(covariance) * signed).sum(-1).T

    return logits


def states(process: LinearProcess, count: int) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return process.prior(torch.randn(count, process.blocks, 1, 1, generator=random))


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_the_unconditional_score_plus_the_exact_guide_is_the_score_of_a_class(process):
    """∇ log p(z) + ∇ log p(y | z) = ∇ log p(z | y), in every block that has noise."""
    noisy = process.diffusion_squared(0.5)[0].diagonal() > 0
    z, labels = states(process, 20), torch.arange(20) % 2
    plain, guide = score_of(process, BOTH), exact_guide(process)
    guided = GuidedScore(plain, class_gradient(guide, labels, batch_size=3))
    for t in (0.05, 0.4, 1.0):
        matrix = process.score_matrix(times(t))[0]
        for label, mean in enumerate((-MEAN, MEAN)):
            expected = score_of(process, gaussian(DEVIATION, mean))(z, t).mix(matrix)
            found = guided(z, t).mix(matrix)[labels == label][:, noisy]
            torch.testing.assert_close(
                found, expected[labels == label][:, noisy], rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize(
    ("process", "sampler"),
    [
        ("psld", "sscs"),
        ("cld", "em"),
        ("vp-sde", "rk45"),
        ("cld", "multistep"),
        ("psld", "gddim"),
        ("cld", "gddim"),
        ("cld", "conjugate"),
        ("varying", "em"),
        ("varying", "multistep"),
    ],
)
def test_guided_samples_have_the_distribution_of_their_class(process, sampler):
    process, count = PROCESSES[process], 2000
    plain, labels = score_of(process, BOTH), torch.arange(count) % 2
    score = GuidedScore(plain, class_gradient(exact_guide(process), labels, batch_size=count))
    random = torch.Generator().manual_seed(1)
    noise = lambda z: torch.randn(z.shape, generator=random)  # noqa: E731
    x = sample(process, SAMPLERS[sampler], score, states(process, count), noise)[:, 0].flatten()
    assert score.evaluations == plain.evaluations
    for label in (0, 1):
        own = x[labels == label]
        error = 5 * math.sqrt(VARIANCE / len(own))
        assert float(own.mean()) == pytest.approx((2 * label - 1) * MEAN, abs=error + 0.02)
        assert float(own.var()) == pytest.approx(VARIANCE, rel=0.25)


def test_classifier_free_guidance_combines_both_predictions():
    """ε(∅) + scale · (ε(y) − ε(∅)): two evaluations, or one at scale 1, in batches of any size."""

    def network(z, t, label):
        return z if label is None else z + label[:, None, None, None]

    z, labels = torch.randn(5, 1, 2, 2), torch.tensor([0, 1, 2, 3, 4])
    minus_one = -torch.ones(1, 1)
    for scale in (0.5, 1, 3):
        for batch_size in (2, 5):
            score = NetworkScore(network, batch_size, labels, scale)
            expected = -(z + scale * labels[:, None, None, None])
            torch.testing.assert_close(score(z, 0.5).mix(minus_one), expected)
            assert score.evaluations == (1 if scale == 1 else 2)
