"""The Gaussian that is fitted to data: moments, draws, and samplers that begin at it."""

from functools import cache

import pytest
import torch

from psld.diffusion import gaussian
from psld.diffusion.gaussian import GaussianData, GaussianStart
from psld.diffusion.roots import WhiteningRoot
from psld.utils.errors import UserError
from tests.diffusion.mixture import dense
from tests.diffusion.processes import EVERY_KIND, normal, times
from tests.diffusion.sampling import multistep

SHAPE = (2, 3, 4)
D = 24
COUNT = 20_000


@cache
def drawn(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images of two classes with different means and covariances, and their labels."""
    labels = torch.arange(COUNT) % 2
    roots = normal(2, D, D, seed=seed + 1) / D**0.5
    means = 0.5 * normal(2, D, seed=seed + 2)
    noise = normal(COUNT, D, seed=seed + 3)
    x = means[labels] + (roots[labels] @ noise[:, :, None])[:, :, 0]
    return x.float().view(-1, *SHAPE), labels


def in_parts(x, labels, size: int = 6_000):
    """Return passes over images with one view per image."""
    return lambda: zip(x[:, None].split(size), labels.split(size), strict=True)


@cache
def measured(num_classes: int) -> GaussianData:
    return GaussianData.measure(in_parts(*drawn()), num_classes)


def covariance(x) -> torch.Tensor:
    return torch.cov(x.flatten(1).T, correction=0)


def test_moments_of_all_images_and_of_each_class():
    x, labels = drawn()
    data = measured(2)
    for group, part in enumerate((x, x[labels == 0], x[labels == 1])):
        torch.testing.assert_close(data.means[group], part.flatten(1).mean(0), atol=1e-4, rtol=0)
        # A direction with less than the smallest variance belongs to the rest.
        torch.testing.assert_close(dense(data, group), covariance(part), atol=0.02, rtol=0)


def test_the_covariance_of_a_class_is_shrunk_by_one_image_toward_all_images():
    """C_g = (Σ over its images + C_0) / (n_g + 1), which for all images is C_0."""
    x, labels = drawn()
    x, labels = x[:40], (torch.arange(40) < 4).long()
    data = GaussianData.measure(in_parts(x, labels), 2)
    whole, few = covariance(x), covariance(x[:4])
    assert float(dense(data, 0).trace()) == pytest.approx(float(whole.trace()), rel=1e-3)
    expected = (4 * few + whole).trace() / 5
    assert float(dense(data, 2).trace()) == pytest.approx(float(expected), rel=1e-3)


def test_a_basis_of_limited_rank_contains_the_leading_eigenvectors(monkeypatch):
    monkeypatch.setattr(gaussian, "LARGEST_RANK", 6)
    scale = torch.cat([torch.tensor([3.0, 2.5, 2.0, 1.5, 1.2, 1.0]), torch.full((18,), 0.2)])
    turn = torch.linalg.qr(normal(D, D))[0].float()
    x = (normal(COUNT, D).float() * scale @ turn.T).view(-1, *SHAPE)
    data = GaussianData.measure(in_parts(x, torch.zeros(COUNT, dtype=torch.long)), 0)
    assert data.basis.shape == (D, 6)
    overlap = (data.basis.T @ turn[:, :6]).square().sum()
    assert float(overlap) == pytest.approx(6, abs=0.02)
    assert float(data.rests[0]) == pytest.approx(0.04, rel=0.05)
    assert float(dense(data, 0).trace()) == pytest.approx(float(covariance(x).trace()), rel=1e-3)


def test_draws_have_noise_outside_the_basis_too():
    basis = torch.linalg.qr(normal(D, 2))[0].float()
    inner = torch.tensor([[[1.5, 0.4], [0.4, 0.8]]])
    means, rests = 0.3 * torch.ones(1, D), torch.tensor([0.2])
    data, sigma = GaussianData.one(SHAPE, means, basis, inner, rests), 0.7
    root = data.draw(torch.eye(D).view(D, *SHAPE), sigma).flatten(1) - means
    expected = dense(data, 0) + sigma**2 * torch.eye(D)
    torch.testing.assert_close(root @ root.T, expected, atol=1e-4, rtol=0)


def test_images_without_any_variance_are_drawn():
    """As if one class had a single image."""
    x = torch.full((3, *SHAPE), 0.25)
    data = GaussianData.measure(in_parts(x, torch.zeros(3, dtype=torch.long)), 1)
    y = data.draw(normal(2, *SHAPE).float(), 0.0, torch.zeros(2, dtype=torch.long))
    torch.testing.assert_close(y, x[:2])
    torch.testing.assert_close(data.means, torch.full((2, D), 0.25))


@pytest.mark.parametrize("name", ["psld", "fourth"])
def test_equal_noise_gives_similar_images_from_the_prior_and_from_the_start(name):
    """In straight coordinates, both have this covariance, up to the part of the image that remains
    at T."""
    process, sigma = EVERY_KIND[name], 0.5
    nothing = GaussianData.one(
        (1, 1, 1), torch.zeros(1, 1), torch.ones(1, 1), torch.zeros(1, 1, 1), torch.zeros(1)
    )
    start, noise = GaussianStart(process, nothing, sigma, 1e-3), normal(64, process.blocks, 1, 1)
    root = WhiteningRoot(process, "straight", 1e-3)(times(start.time, 1.0))
    early, late = (
        torch.linalg.solve(R, z.double().flatten(1).T)
        for R, z in zip(root, (start(noise.float()), process.prior(noise)), strict=True)
    )
    assert float((early - late).abs().max()) < 0.3
    for one, other in zip(early, late, strict=True):
        assert float(torch.corrcoef(torch.stack([one, other]))[0, 1]) > 0.99


def test_noise_levels_replace_the_time_grid():
    process = EVERY_KIND["psld"]
    chosen = multistep(4, levels=(3.0, 1.0, 0.3, 0.05), start="gaussian")
    levels = process.noise_level(chosen.time_grid(process))
    torch.testing.assert_close(levels, times(3.0, 1.0, 0.3, 0.05), rtol=1e-6, atol=0)
    top = float(process.noise_level(times(1.0)))
    grid = multistep(3, levels=(top, 1.0, 0.05)).time_grid(process)
    assert float(grid[0]) == 1
    for first in (3.0, 0.95 * top):
        with pytest.raises(UserError, match=r"first level must be .*, where start=prior begins"):
            multistep(3, levels=(first, 1.0, 0.05)).time_grid(process)
    without = multistep(3, levels=(3.0, 1.0, 0.3, 0.05), start="gaussian", denoise=False)
    assert without.noise_levels(process) == pytest.approx((0.3, 3.0))
    for levels, said in (((3.0, 1.0, 1e-6), "3 to 1e-06"), ((1e4, 1.0, 0.05), "10000 to 0.05")):
        with pytest.raises(UserError, match=f"sampler.levels: {said}; the noise levels of the"):
            multistep(3, levels=levels, start="gaussian").time_grid(process)


@pytest.mark.parametrize("level", [1e-3, 1e5])
def test_a_start_outside_the_levels_of_the_process_is_refused(level):
    settings = multistep(4, start="gaussian", start_level=level)
    with pytest.raises(UserError, match=r"sampler\.start_level: .* is outside the noise levels"):
        settings.time_grid(EVERY_KIND["psld"])
    with pytest.raises(UserError, match="missing for start=gaussian"):
        multistep(4, start="gaussian").time_grid(EVERY_KIND["psld"])
