"""Training images as a mixture of Gaussians, fitted by scikit-learn's expectation maximization."""

import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from psld.data.store import ImageStore
from psld.diffusion.gaussian import GaussianData
from psld.training.start import START, SamplerStart, load_start, passes_over, views
from psld.utils.device import all_bits
from psld.utils.errors import UserError
from psld.utils.randomness import Stream, stream_seed
from psld.utils.tensors import save_tensors

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture

LOWEST_LEVEL = 0.5
"""No start is below this noise level. A fit adds its square to all variances."""
COMPONENTS = (2, 4, 8, 16, 32)
"""The numbers K of components of which the best is taken, besides one."""
DIRECTIONS = (10, 20, 40)
"""The numbers q of directions of which the best is taken."""
FEWEST_IMAGES = 10
"""K with a component of fewer images, which is near to single ones, is not taken."""
MOST_IMAGES = 10_000
"""A mixture is fitted to so many images at most, drawn at random."""
ITERATIONS = 100
SHARES = 0.75, 0.3
"""σ₀ as a share of the largest deviation: of one Gaussian, and of a mixture's components."""

Passes = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""All images in parts, float N×C×H×W, with their labels, at each call."""


@all_bits()  # the last variances are differences of large sums
@torch.no_grad()
def measure_start(
    passes: Passes, num_classes: int, flip: bool = False, mixture: bool = True
) -> SamplerStart:
    """Measure the two moments of images, and fit mixtures of Gaussians to them.

    A component looks Gaussian under noise of some part of its largest deviation. So with λ_k the
    largest variance of component k, a start from a mixture begins at

        σ₀ = max(0.3 √(Σ_k w_k λ_k), 0.5),

    and one from one Gaussian at max(0.75 √λ, 0.5).

    Args:
        passes, num_classes: as in `GaussianData.measure`.
        flip: each image counts with its mirror image, because a network sees both.
        mixture: fit them; otherwise they are one Gaussian each.
    """

    def both() -> Iterable[tuple[Tensor, Tensor]]:
        for x, labels in passes():
            for view in views(x, flip):
                yield view, labels

    one = GaussianData.measure(both, num_classes)
    data = with_mixture(one, passes, flip) if mixture else one
    several = (data.weights > 0).sum(1) > 1
    shares = torch.where(several, SHARES[1], SHARES[0])
    levels = [SHARES[0] * one.largest_deviations(), shares * data.largest_deviations()]
    return SamplerStart(data, torch.stack(levels).clamp(min=LOWEST_LEVEL))


def save_start(
    folder: Path, store: ImageStore, flip: bool, weights_sha256: str, device: torch.device
) -> int:
    """Measure the start of a model, and write it into the model's folder, unless it is there.

    Return the number of its Gaussians.
    """
    with suppress(UserError):
        return load_start(folder, weights_sha256).data.components()[0]
    print("fitting a mixture of Gaussians to the training images, to start from", flush=True)
    passes = passes_over(store.images("train"), store.labels("train"), device)
    start = measure_start(passes, store.num_classes, flip)
    arrays = start.data.arrays() | {"levels": start.levels}
    save_tensors(folder / START, "start", arrays, {"weights_sha256": weights_sha256})
    return start.data.components()[0]


def with_mixture(data: GaussianData, passes: Passes, flip: bool = False) -> GaussianData:
    """Return a law as a mixture in its leading directions, with nearly the same two moments.

    A fifth of the images is held out. K and q are those under which held-out images with noise,
    y = x + σ n at σ = 0.5, are most likely. Since KL(p_σ ‖ q_σ) + E log q_σ(y) is the same for all
    laws q, they are those with the smallest divergence. A fit adds σ² to all covariances, so that
    none shrinks to single images, and this is taken away again. All groups have the q of all
    images, and each its own K, which is 1 if no mixture is more likely than one Gaussian, and is
    halved until components have enough images; if that of all images is 1, so are the others.
    """
    values, vectors = (each.flip(-1) for each in torch.linalg.eigh(data.covariances.double()))
    axes = vectors[..., : max(DIRECTIONS)].float()
    variances = values[..., : axes.shape[-1]].clamp(min=0).numpy()
    coordinates = _coordinates(data, axes, passes, flip)
    K, q = _best(coordinates[0], variances[0], DIRECTIONS)
    found = []
    for c, variance in zip(coordinates, variances, strict=True):
        K = _best(c, variance, (q,))[0] if found else K
        found.append(_fitted(c[..., :q], K, variance))
        if len(found[0][0]) == 1:
            return data
    groups, K = len(found), max(len(weights) for weights, _, _ in found)
    weights, centers = torch.zeros(groups, K), torch.zeros(groups, K, q)
    spreads = torch.zeros(groups, K, q, q)
    for g, arrays in enumerate(found):
        for whole, array in zip((weights, centers, spreads), arrays, strict=True):
            whole[g, : len(array)] = torch.from_numpy(array)
    kept = axes[..., :q].contiguous()
    return replace(data, axes=kept, weights=weights, centers=centers, spreads=spreads)


def _coordinates(data: GaussianData, axes: Tensor, passes: Passes, flip: bool) -> list[np.ndarray]:
    """Return coordinates of each group's images, and of their mirror images: N×views×Q each.

    `axes` are groups×r×Q, in the basis. The images are in random order, as many as a fit takes.
    """
    rows: list[list[Tensor]] = [[] for _ in axes]
    for x, labels in passes():
        if data.means.device != x.device:
            data, axes = data.to(x.device), axes.to(x.device)
        both = torch.stack(views(x, flip), dim=1).flatten(2)
        for g, (mean, axis) in enumerate(zip(data.means, axes, strict=True)):
            part = both if g == 0 else both[labels == g - 1]
            rows[g].append(((part - mean) @ data.basis @ axis).cpu())
    stream = np.random.default_rng(stream_seed(0, Stream.START))
    whole = [torch.cat(each).double().numpy() for each in rows]
    most = MOST_IMAGES // (1 + flip)
    return [np.ascontiguousarray(c[stream.permutation(len(c))[:most]]) for c in whole]


def _best(c: np.ndarray, variances: np.ndarray, directions: tuple[int, ...]) -> tuple[int, int]:
    """Return the most likely K and q for the coordinates, N×views×Q, of these variances."""
    held, Q = len(c) // 5, c.shape[2]
    if not held:
        return 1, directions[0]
    images, seen, y = len(c) - held, c[held:].reshape(-1, Q), c[:held].reshape(-1, Q)
    noise = np.random.default_rng(stream_seed(1, Stream.START)).standard_normal(y.shape)
    y = y + LOWEST_LEVEL * noise
    total = variances + LOWEST_LEVEL**2
    one = -0.5 * np.mean(y**2 / total + np.log(2 * np.pi * total), axis=0)
    best = 0.0, 1, directions[0]
    for q in directions:
        for K in COMPONENTS:
            if q > Q or images < K * FEWEST_IMAGES:
                break
            mixture = _mixture(seen[:, :q], K)
            if mixture.weights_.min() * images < FEWEST_IMAGES:
                break
            best = max(best, (mixture.score(y[:, :q]) - one[:q].sum(), K, q))
    return best[1:]


def _fitted(
    c: np.ndarray, components: int, variances: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return w, K, m, K×q, and S, K×q×q, of the coordinates of images, N×views×q.

    K is `components`, or half of it, and so on, until all components have enough images.
    """
    images, q = len(c), c.shape[2]
    if components == 1:
        return np.ones(1), np.zeros((1, q)), np.diag(variances[:q])[None]
    mixture = _mixture(c.reshape(-1, q), components)
    if mixture.weights_.min() * images < FEWEST_IMAGES:
        return _fitted(c, components // 2, variances)
    return mixture.weights_, mixture.means_, mixture.covariances_ - LOWEST_LEVEL**2 * np.eye(q)


def _mixture(c: np.ndarray, components: int) -> "GaussianMixture":
    """Fit a mixture to c, N×q, with the variance of noise added to each component's."""
    from sklearn.mixture import GaussianMixture  # half a second, and most commands fit none

    noise = LOWEST_LEVEL**2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a hundred steps are enough, converged or not
        mixture = GaussianMixture(components, reg_covar=noise, max_iter=ITERATIONS, random_state=0)
        return mixture.fit(c)
