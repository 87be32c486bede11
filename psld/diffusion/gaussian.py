"""The Gaussian with the mean and covariance of images, and samplers' start from it.

Above a noise level σ₀ of a few deviations, images with noise are nearly Gaussian: a network adds
nothing there to what two moments of the data say (Wang and Vastola, 2412.09726).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from psld.diffusion.matrices import mix
from psld.diffusion.process import LinearProcess
from psld.diffusion.roots import WhiteningRoot
from psld.diffusion.time_grid import time_of_noise_level

LARGEST_BASIS = 20_000_000
"""Values of a basis, in half precision: 40 MB."""
LARGEST_RANK = 512
SMALLEST_VARIANCE = 0.01
"""Directions with less variance are no part of a basis: next to σ₀² ≥ 1 only their sum matters."""
PASSES = 2
"""Passes over the images of the randomized search for a basis (Halko et al., 2011)."""


@dataclass(frozen=True)
class GaussianData:
    """Mean and covariance of images with d values each, of all images and of each class:

        C_g = U K_g Uᵀ + v_g (I − U Uᵀ)

    Group 0 has all images; group 1 + c has those of class c, if there are classes.
    """

    shape: tuple[int, int, int]
    """C×H×W."""
    means: Tensor
    """μ, groups×d, float32."""
    basis: Tensor
    """U, d×r, orthonormal: the leading eigenvectors of C_0."""
    covariances: Tensor
    """K, groups×r×r."""
    rests: Tensor
    """v, groups: the mean variance in the other directions."""

    @classmethod
    def measure(
        cls, passes: Callable[[], Iterable[tuple[Tensor, Tensor]]], num_classes: int
    ) -> "GaussianData":
        """Measure images in a few passes.

        Args:
            passes: called for each pass; returns all images in parts, float N×C×H×W, with their
                labels, int64 N on the same device, which are ignored without classes.
            num_classes: 0 for group 0 alone.
        """
        first = next(iter(passes()))[0]
        shape, device, d = tuple(first.shape[1:]), first.device, first[0].numel()
        groups = 1 + num_classes

        def chunks() -> Iterator[tuple[Tensor, Tensor]]:
            for x, labels in passes():
                yield x.flatten(1), labels + 1 if num_classes else torch.zeros_like(labels)

        counts, sums = torch.zeros(groups, device=device), torch.zeros(groups, d, device=device)
        for x, group in chunks():
            counts += torch.bincount(group, minlength=groups)
            sums.index_add_(0, group, x)
        counts[0], sums[0] = counts.sum(), sums.sum(dim=0)
        means = sums / counts.clamp(min=1)[:, None]
        means[counts == 0] = means[0].clone()

        rank = min(d, LARGEST_RANK, LARGEST_BASIS // d, int(counts[0]))
        if rank == d:
            basis = torch.eye(d, device=device)
        else:
            generator = torch.Generator().manual_seed(0)
            basis = torch.randn(d, rank, generator=generator).to(device)
            for _ in range(PASSES):
                image = torch.zeros_like(basis)
                for x, _ in chunks():
                    image += (x - means[0]).T @ ((x - means[0]) @ basis)
                basis = torch.linalg.qr(image)[0]

        def covariances(basis: Tensor, groups: int) -> tuple[Tensor, Tensor]:
            """Return K, groups×r×r, and the traces of C, groups, of the first groups."""
            inner = torch.zeros(groups, basis.shape[1], basis.shape[1], device=device)
            traces = torch.zeros(groups, device=device)
            for x, group in chunks():
                for g in range(groups):
                    part = (x if g == 0 else x[group == g]) - means[g]
                    coordinates = part @ basis
                    inner[g] += coordinates.T @ coordinates
                    traces[g] += part.square().sum()
            # A class of few images says nothing in most directions: it keeps a unit of all images.
            inner, traces = inner + inner[:1] / counts[0], traces + traces[0] / counts[0]
            more = counts[:groups] + 1
            return inner / more[:, None, None], traces / more

        values, vectors = torch.linalg.eigh(covariances(basis, 1)[0][0])
        kept = max(1, int((values > SMALLEST_VARIANCE).sum()))
        # Half precision, as in a model's folder.
        basis = _orthonormal((basis @ vectors[:, -kept:]).half().float())
        inner, traces = covariances(basis, groups)
        inside = inner.diagonal(dim1=1, dim2=2).sum(dim=1)
        rests = (traces - inside).clamp(min=0) / max(1, d - kept)
        return cls(shape, means.cpu(), basis.cpu(), inner.cpu(), rests.cpu())

    def to(self, device: torch.device) -> "GaussianData":
        moved = (each.to(device) for each in (self.means, self.basis, self.covariances, self.rests))
        return GaussianData(self.shape, *moved)

    def arrays(self) -> dict[str, Tensor]:
        """Return what `from_arrays` takes."""
        return {
            "means": self.means.unflatten(1, self.shape),
            "basis": self.basis.half(),
            "covariances": self.covariances,
            "rests": self.rests,
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, Tensor]) -> "GaussianData":
        means = arrays["means"]
        basis = _orthonormal(arrays["basis"].float())
        return cls(
            tuple(means.shape[1:]), means.flatten(1), basis, arrays["covariances"], arrays["rests"]
        )

    def draw(self, noise: Tensor, sigma: float, labels: Tensor | None = None) -> Tensor:
        """Return y ~ N(μ, C + σ² I) as a linear function of standard normal noise, N×C×H×W.

            y = μ + √(v + σ²) n + U (√(K + σ²) − √(v + σ²)) Uᵀ n

        `labels` are the classes of the images, N; None means all images.
        """
        return self._map(noise, labels, torch.sqrt, sigma, shifted=False)

    def posterior_mean(self, y: Tensor, sigma: float, labels: Tensor | None = None) -> Tensor:
        """Return E[x₀ | y] of the Gaussian: the Wiener filter μ + C (C + σ²)⁻¹ (y − μ)."""
        return self._map(y, labels, lambda total: 1 - sigma**2 / total, sigma, shifted=True)

    def _map(
        self,
        x: Tensor,
        labels: Tensor | None,
        function: Callable[[Tensor], Tensor],
        sigma: float,
        shifted: bool,
    ) -> Tensor:
        """Return μ + f(C + σ²) x, or μ + f(C + σ²) (x − μ) if `shifted`."""
        flat, out = x.flatten(1), torch.empty_like(x.flatten(1))
        group = torch.zeros(len(x), dtype=torch.long) if labels is None else 1 + labels.cpu()
        for g in group.unique().tolist():
            chosen = (group == g).to(x.device)
            part = flat[chosen] - self.means[g] if shifted else flat[chosen]
            values, vectors = torch.linalg.eigh(self.covariances[g].double())
            inside = function(values.clamp(min=0) + sigma**2)
            outside = function(self.rests[g].double() + sigma**2)
            matrix = (vectors * (inside - outside)) @ vectors.T
            mapped = (part @ self.basis) @ matrix.to(x.dtype) @ self.basis.T
            out[chosen] = self.means[g] + outside.to(x.dtype) * part + mapped
        return out.view_as(x)


def _orthonormal(basis: Tensor) -> Tensor:
    """Return the orthonormal matrix that is nearest to one rounded to half precision."""
    values, vectors = torch.linalg.eigh((basis.T @ basis).double())
    return basis @ ((vectors * values.rsqrt()) @ vectors.T).to(basis.dtype)


class GaussianStart:
    """The start of a sampler at the noise level σ₀ instead of at T, from the Gaussian of the data.

    In straight coordinates, z = R̃_t [√ρ y, u], only y depends on the image. So at the time t₀ with
    σ_eff(t₀) = σ₀, with y ~ N(μ, C + σ₀² I) and u ~ N(0, I),

        E[z] = a μ,      Cov[z] = Σ + a aᵀ ⊗ C,

    as for the process itself at t₀. The noise of y and u is that of the usual start at T, in these
    coordinates, so both starts with one seed give similar images. (R̃_T⁻¹ √S is orthogonal up to
    what is left of the image at T; the nearest orthogonal matrix is taken.)
    """

    def __init__(
        self, process: LinearProcess, data: GaussianData, sigma: float, final_time: float
    ) -> None:
        self.data, self.sigma = data, sigma
        level = torch.tensor([sigma], dtype=torch.float64)
        time = time_of_noise_level(process, level, final_time)
        root = WhiteningRoot(process, "straight", final_time)
        whitened = torch.linalg.solve(root(torch.ones_like(time))[0], process.S.sqrt())
        left, _, right = torch.linalg.svd(whitened)
        self.turn = left @ right
        self.root = root(time)[0]
        self.root[:, 0] /= sigma
        self.time = float(time)

    def __call__(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return z at `time` from standard normal noise, both N×kC×H×W."""
        channels = self.data.shape[0]
        drawn = mix(self.turn, noise)
        y = self.data.draw(drawn[:, :channels], self.sigma, labels)
        return mix(self.root, torch.cat([y, drawn[:, channels:]], dim=1))
