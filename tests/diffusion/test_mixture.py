"""A mixture of Gaussians that describes images: draws, the initial distribution, and the fit."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from psld.data.units import Units
from psld.diffusion.gaussian import GaussianData, GaussianStart
from psld.diffusion.matrices import mix
from psld.models import start as starts
from psld.models.settings import Start
from psld.models.start import SamplerStart, measure_start, with_mixture
from tests.diffusion.mixture import component
from tests.diffusion.processes import EVERY_KIND, normal, times
from tests.diffusion.test_gaussian import SHAPE, D, in_parts, measured

Q, WEIGHTS = 3, (0.2, 0.5, 0.3)
MIDDLES = (0.1, 0.4, 0.9)
"""Uniform numbers that select the components 0, 1 and 2."""


@cache
def three() -> GaussianData:
    """A mixture with three components for all images, and with one component for each class."""
    data = measured(2)
    roots = normal(3, 3, Q, Q, seed=5)
    weights = torch.tensor([WEIGHTS, (1, 0, 0), (1, 0, 0)])
    return replace(
        data,
        axes=torch.linalg.eigh(data.covariances)[1][..., -Q:],
        weights=weights,
        centers=2 * normal(3, 3, Q, seed=6).float(),
        spreads=(roots @ roots.mT).float(),
    )


@pytest.mark.parametrize(("label", "group"), [(None, 0), (1, 2)])
def test_draws_have_the_moments_of_their_component(label, group):
    data, sigma, unit = three(), 0.8, torch.eye(D).view(D, *SHAPE)
    labels = None if label is None else torch.full((D,), label)
    for k, number in enumerate(MIDDLES if label is None else (0.0,)):
        mean, covariance = component(data, group, k)
        which = torch.full((D,), number, dtype=torch.float64)
        origin = data.draw(torch.zeros(D, *SHAPE), sigma, labels, which).flatten(1)
        torch.testing.assert_close(origin[0], mean, atol=1e-4, rtol=1e-4)
        root = data.draw(unit, sigma, labels, which).flatten(1) - origin
        expected = covariance + sigma**2 * torch.eye(D)
        torch.testing.assert_close(root.T @ root, expected, atol=1e-3, rtol=1e-3)


def test_components_are_drawn_by_their_weights():
    which = torch.linspace(0, 1, 1001, dtype=torch.float64)[:-1]
    y = three().draw(torch.zeros(1000, *SHAPE), 1.0, None, which).flatten(1)
    means = torch.stack([component(three(), 0, k)[0] for k in range(3)])
    counts = torch.cdist(y, means).argmin(1).bincount()
    assert (counts - torch.tensor([200, 500, 300])).abs().max() <= 1
    torch.manual_seed(0)
    drawn = torch.cdist(three().draw(torch.zeros(1000, *SHAPE), 1.0).flatten(1), means)
    assert (drawn.argmin(1).bincount() - counts).abs().max() < 60, "by torch's own generator"


def test_the_largest_deviation_is_a_mean_over_the_components():
    """√(Σ_k w_k λ_k), so that a rare wide component does not determine the start level."""
    data = replace(
        three(),
        weights=torch.tensor([[0.75, 0.25], [1, 0], [1, 0]]),
        spreads=torch.eye(Q) * torch.tensor([1.0, 4.0])[:, None, None].expand(3, 2, 1, 1),
    )
    found = data.largest_deviations()
    torch.testing.assert_close(found, torch.tensor([1.75**0.5, 1, 1]))


def test_images_of_several_classes_have_their_own_labels_and_components():
    """Draws in one call equal single draws."""
    noise, labels = normal(6, *SHAPE, seed=9).float(), torch.tensor([1, 0, 0, 1, 0, 1])
    data = replace(three(), weights=torch.tensor([WEIGHTS] * 3))
    which = torch.tensor([0.1, 0.9, 0.4, 0.4, 0.1, 0.9], dtype=torch.float64)
    start = GaussianStart(EVERY_KIND["vp-sde"], data, 0.7, 1e-3)
    for draw in (start, start.images, lambda *given: data.draw(given[0], 0.5, *given[1:])):
        together = draw(noise, labels, which)
        alone = [draw(noise[[i]], labels[[i]], which[[i]]) for i in range(6)]
        torch.testing.assert_close(together, torch.cat(alone))
        others = draw(noise, 1 - labels, which)
        assert all(
            not torch.allclose(*each, atol=0.1) for each in zip(together, others, strict=True)
        )
    assert data.components([1, 0]) == [3, 3]
    assert three().components([1, 0]) == [1, 1]
    assert three().components() == [3]


def test_initial_states_contain_the_images_of_the_start():
    """With hardly any noise, both give the same images."""
    process, noise = EVERY_KIND["psld-dsm-upper"], normal(20, 4, 3, 4, seed=3).float()
    start, which = GaussianStart(process, three(), 0.05, 1e-3), torch.linspace(0, 0.99, 20)
    z, t = start(noise, None, which), times(start.time)
    row = torch.linalg.solve(process.image_covariance(t)[0], process.image_mean(t)[0])[None]
    y = mix(row / process.precision(t), z)
    assert float((y - start.images(noise, None, which)).abs().max()) < 0.3


def test_a_mixture_of_one_component_is_a_gaussian():
    one = measured(0)
    values, vectors = torch.linalg.eigh(one.covariances)
    same = replace(
        one,
        axes=vectors[..., -Q:],
        centers=torch.zeros(1, 1, Q),
        spreads=torch.diag_embed(values[:, None, -Q:]),
    )
    y, which = normal(5, *SHAPE).float(), torch.zeros(5, dtype=torch.float64)
    for sigma in (0.3, 2.0):
        torch.testing.assert_close(
            same.draw(y, sigma, None, which), one.draw(y, sigma), atol=1e-4, rtol=1e-4
        )
    torch.testing.assert_close(same.largest_deviations(), one.largest_deviations())
    assert three().as_one().draw(y, 1.0).equal(measured(2).draw(y, 1.0))


def test_a_mixture_read_from_a_file_is_unchanged():
    again = GaussianData.from_arrays(three().arrays())
    y, which = normal(5, *SHAPE).float(), torch.linspace(0, 0.99, 5, dtype=torch.float64)
    drawn = three().draw(y, 2.0, None, which)
    torch.testing.assert_close(again.draw(y, 2.0, None, which), drawn, atol=2e-3, rtol=2e-3)
    assert again.components() == [3]


@pytest.mark.parametrize("name", EVERY_KIND)
def test_the_start_has_the_moments_of_the_process_in_each_component(name):
    process = EVERY_KIND[name]
    sigma = min(0.7, 0.8 * float(process.noise_level(times(1.0))))
    data = three()
    start = GaussianStart(process, data, sigma, 1e-3)
    k, n = process.blocks, process.blocks * D
    a, kernel = (f(times(start.time))[0] for f in (process.image_mean, process.image_covariance))
    for index, number in enumerate(MIDDLES):
        which = torch.full((n,), number, dtype=torch.float64)
        origin = start(torch.zeros(1, k * 2, 3, 4), None, which[:1])
        unit = torch.eye(n).view(n, k * 2, 3, 4)
        response = (start(unit, None, which) - origin).flatten(1)
        mean, covariance = component(data, 0, index)
        torch.testing.assert_close(
            origin.view(k, D), torch.outer(a.float(), mean), atol=1e-3, rtol=1e-3
        )
        expected = torch.kron(kernel, torch.eye(D, dtype=torch.float64))
        expected += torch.kron(torch.outer(a, a), covariance.double())
        torch.testing.assert_close((response.T @ response).double(), expected, atol=2e-3, rtol=2e-3)


def clusters(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images around three points, in two classes of which the second has one point."""
    labels = torch.tensor([0, 0, 1]).repeat(count)[:count]
    points = torch.arange(3).repeat(count)[:count]
    middles = 6 * normal(3, D, seed=1)
    x = middles[points] + 0.3 * normal(count, D, seed=2)
    return x.float().view(-1, *SHAPE), labels


def started(x: torch.Tensor, components: tuple[int, ...], **options) -> SamplerStart:
    """Return the initial distribution of the integers nearest to 6 x + 128."""
    images = (6 * x + 128).round().clamp(0, 255).numpy()
    how = Start(components=components, directions=(10,))
    channels = images.shape[1]
    units = Units(mean=(128.0,) * channels, std=(6.0,) * channels)
    return measure_start(images, torch.device("cpu"), how, units=units, **options)


def test_a_fit_finds_clusters():
    x, labels = clusters(600)
    start = started(x, (2, 3, 4), labels=labels.numpy(), num_classes=2)
    data = start.data
    assert data.components() == [3]
    assert [int((w > 0).sum()) for w in data.weights[:2]] == [3, 2]
    torch.testing.assert_close(data.weights[0, :3], torch.full((3,), 1 / 3), atol=0.02, rtol=0)
    widest = torch.linalg.eigvalsh(data.spreads[0]).max()
    assert 0.3**2 < widest < 0.5**2, "without the noise that a fit adds"
    which = torch.linspace(0, 0.999, 300, dtype=torch.float64)
    y = data.draw(normal(300, *SHAPE, seed=3).float(), 0.1, None, which)
    assert float(torch.cdist(y.flatten(1), x.flatten(1)).min(1).values.max()) < 4
    far = data.as_one().draw(normal(300, *SHAPE, seed=3).float(), 0.1)
    assert float(torch.cdist(far.flatten(1), x.flatten(1)).min(1).values.max()) > 8
    assert start.level() == 0.5
    assert start.level(mixture=False) > 3
    one = 0.75 * float(data.largest_deviations()[2])
    assert start.level(classes=[0]) == 0.5, "two clusters"
    assert start.level(mixture=False, classes=[0]) > 1
    assert start.levels.shape == (2, 3)
    assert one < 1


def test_a_class_of_one_gaussian_starts_at_a_higher_level():
    """This class starts at 0.75 √λ, although another class has several components."""
    x = torch.cat([clusters(300)[0], 2 * normal(300, *SHAPE, seed=4).float()])
    labels = torch.arange(2).repeat_interleave(300).numpy()
    start = started(x, (2, 3, 4), labels=labels, num_classes=2)
    assert [int((w > 0).sum()) for w in start.data.weights[1:]] == [3, 1]
    farthest = float(start.data.largest_deviations()[2])
    assert start.level(classes=[1]) == pytest.approx(0.75 * farthest)
    assert farthest > 1


def test_clusters_are_found_if_the_leading_direction_has_none():
    c = normal(400, 2, seed=1).numpy() * (1.0, 0.3)
    c[:, 1] += np.repeat((-4.0, 4.0), 200)[np.random.default_rng(0).permutation(400)]
    assert starts._best(c[:, None], c.var(axis=0), (2,), (1, 2)) == (2, 2)


@pytest.mark.parametrize("few", [0, 6])
def test_a_few_images_do_not_form_a_component(few):
    """A component must have ten images, so that its center is not close to a single image."""
    x, _ = clusters(3 * few or 3)
    other = normal(200, *SHAPE, seed=4).float() if few else x
    x = torch.cat([other, x[::3]])
    passes = in_parts(x, torch.zeros(len(x), dtype=torch.long))
    assert with_mixture(GaussianData.measure(passes, 0), passes, Start()).components() == [1]


@pytest.mark.parametrize(("few", "components"), [(4, 1), (40, 2)])
def test_a_component_of_the_last_fit_has_enough_images_too(monkeypatch, few, components):
    """The final fit uses all images, but K was chosen with a part of the images."""
    monkeypatch.setattr(starts, "_best", lambda *_: (2, 3))
    x = torch.cat([normal(200, *SHAPE, seed=4).float(), clusters(3 * few)[0][::3]])
    passes = in_parts(x, torch.zeros(len(x), dtype=torch.long))
    data = with_mixture(GaussianData.measure(passes, 0), passes, Start())
    assert data.components() == [components]


def test_mirror_images_are_fitted_and_held_out_with_their_images():
    """A cluster and its mirror images form two components with equally many images."""
    x = 4 * normal(1, *SHAPE, seed=1) + 0.3 * normal(300, *SHAPE, seed=2)
    data = started(x, (2,), flip=True).data
    assert data.components() == [2]
    torch.testing.assert_close(data.weights[0], torch.full((2,), 0.5), atol=0.01, rtol=0)
    means = (data.centers[0] @ (data.basis @ data.axes[0]).T + data.means).view(2, *SHAPE)
    torch.testing.assert_close(means[0], means[1].flip(-1), atol=0.1, rtol=0)


def test_normal_images_are_one_gaussian():
    x = normal(500, *SHAPE, seed=8).float()
    passes = in_parts(x, torch.zeros(len(x), dtype=torch.long))
    how = Start(components=(2, 4), directions=(10,))
    data = with_mixture(GaussianData.measure(passes, 0), passes, how)
    assert data.components() == [1]
