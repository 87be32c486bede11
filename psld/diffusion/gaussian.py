"""Mixtures of Gaussians that are fitted to images, as initial distributions of samplers.

Above some noise level σ₀, the distribution of noisy images is close to a mixture of Gaussians plus
the same noise. A network therefore adds little at these levels. (Wang and Vastola, arXiv
2412.09726, show this for one Gaussian.)
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from psld.diffusion.matrices import mix
from psld.diffusion.process import LinearProcess
from psld.diffusion.roots import whitening_root
from psld.diffusion.time_grid import time_of_noise_level
from psld.utils.device import all_bits
from psld.utils.errors import UserError

LARGEST_BASIS = 20_000_000
"""The largest number of entries of a basis, which take 40 MB in half precision."""
LARGEST_RANK = 512
"""The largest number of vectors of a basis."""
SMALLEST_VARIANCE = 0.01
"""Directions with a smaller variance are not in the basis.

Each of these variances is negligible compared with σ₀²; only their sum matters.
"""
PASSES = 2
"""Number of passes over the images in the randomized search for a basis (Halko et al., 2011)."""


@dataclass(frozen=True)
class GaussianData:
    """A distribution of images with d values each: a mixture of Gaussians for each group g.

    Group 0 contains all images. With classes, group 1 + c contains the images of class c. The mean
    and the covariance of group g are

        μ_g,   C_g = U K_g Uᵀ + v_g (I − U Uᵀ).

    The coordinates along the q leading eigenvectors V_g of U K_g Uᵀ follow a mixture

        (U V_g)ᵀ (x − μ_g) ~ Σ_k w_k N(m_k, S_k).

    The other coordinates are Gaussian and independent of these q coordinates. A single Gaussian
    has q = 0.
    """

    shape: tuple[int, ...]
    """C×H×W."""
    means: Tensor
    """μ, groups×d, float32."""
    basis: Tensor
    """U, d×r, orthonormal: the leading eigenvectors of C_0."""
    covariances: Tensor
    """K, groups×r×r."""
    rests: Tensor
    """v, groups: the mean variance in the directions orthogonal to U."""
    axes: Tensor
    """V, groups×r×q, orthonormal."""
    weights: Tensor
    """w, groups×K, padded with 0 in groups with fewer than K components."""
    centers: Tensor
    """m, groups×K×q."""
    spreads: Tensor
    """S, groups×K×q×q."""

    @classmethod
    def measure(
        cls, passes: Callable[[], Iterable[tuple[Tensor, Tensor]]], num_classes: int
    ) -> "GaussianData":
        """Measure the mean and the covariance of images in a few passes.

        Args:
            passes: function that is called once per pass over the images. It yields all images in
                chunks, float N×views×C×H×W, with their labels, int64 N, on the same device.
            num_classes: number of classes; with 0, labels are ignored and only group 0 exists.
        """
        first = next(iter(passes()))[0]
        shape, d = tuple(first.shape[2:]), first[0, 0].numel()
        groups = 1 + num_classes

        def chunks() -> Iterator[tuple[Tensor, Tensor]]:
            for x, labels in passes():
                group = labels + 1 if num_classes else torch.zeros_like(labels)
                yield x.flatten(2).flatten(0, 1), group.repeat_interleave(x.shape[1])

        counts, sums = first.new_zeros(groups), first.new_zeros(groups, d)
        for x, group in chunks():
            counts += torch.bincount(group, minlength=groups)
            sums.index_add_(0, group, x)
        counts[0], sums[0] = counts.sum(), sums.sum(dim=0)
        means = sums / counts.clamp(min=1)[:, None]

        rank = min(d, LARGEST_RANK, LARGEST_BASIS // d, int(counts[0]))
        if rank == d:
            basis = torch.eye(d).to(first)
        else:
            generator = torch.Generator().manual_seed(0)
            basis = torch.randn(d, rank, generator=generator, dtype=torch.float32).to(first)
            for _ in range(PASSES):
                image = torch.zeros_like(basis)
                for x, _ in chunks():
                    image += (x - means[0]).T @ ((x - means[0]) @ basis)
                basis = torch.linalg.qr(image)[0]

        def covariances(basis: Tensor, groups: int) -> tuple[Tensor, Tensor]:
            """Return K, groups×r×r, and the trace of C for each of the first `groups` groups."""
            inner = first.new_zeros(groups, basis.shape[1], basis.shape[1])
            traces = first.new_zeros(groups)
            for x, group in chunks():
                for g in range(groups):
                    part = (x if g == 0 else x[group == g]) - means[g]
                    coordinates = part @ basis
                    inner[g] += coordinates.T @ coordinates
                    traces[g] += part.square().sum()
            # In a class of few images, most directions have no variance. To regularize the
            # covariance of the class, add the covariance of all images with the weight of one
            # image.
            inner, traces = inner + inner[:1] / counts[0], traces + traces[0] / counts[0]
            more = counts[:groups] + 1
            return inner / more[:, None, None], traces / more

        values, vectors = torch.linalg.eigh(covariances(basis, 1)[0][0])
        kept = max(1, int((values > SMALLEST_VARIANCE).sum()))
        # Round to half precision, as `arrays` does, so that a saved basis gives the same results.
        basis = _orthonormal((basis @ vectors[:, -kept:]).half().float())
        inner, traces = covariances(basis, groups)
        inside = inner.diagonal(dim1=1, dim2=2).sum(dim=1)
        rests = (traces - inside).clamp(min=0) / max(1, d - kept)
        return cls.one(shape, means.cpu(), basis.cpu(), inner.cpu(), rests.cpu())

    @classmethod
    def one(
        cls,
        shape: tuple[int, ...],
        means: Tensor,
        basis: Tensor,
        covariances: Tensor,
        rests: Tensor,
    ) -> "GaussianData":
        """Return the distribution with a single Gaussian for each group."""
        groups, rank = covariances.shape[:2]
        axes, centers = means.new_empty(groups, rank, 0), means.new_empty(groups, 1, 0)
        weights, spreads = means.new_ones(groups, 1), means.new_empty(groups, 1, 0, 0)
        return cls(shape, means, basis, covariances, rests, axes, weights, centers, spreads)

    def as_one(self) -> "GaussianData":
        """Return one Gaussian per group, with the same mean and covariance as the mixture."""
        return self.one(self.shape, self.means, self.basis, self.covariances, self.rests)

    @property
    def has_classes(self) -> bool:
        return len(self.means) > 1

    def groups(self, classes: Sequence[int] = ()) -> list[int]:
        """Return the groups of these classes, or group 0 if there are no classes."""
        return [1 + each for each in classes if self.has_classes] or [0]

    def components(self, classes: Sequence[int] = ()) -> list[int]:
        """Return the number of components of each group that `groups` returns."""
        return (self.weights[self.groups(classes)] > 0).sum(1).tolist()

    def largest_deviations(self) -> Tensor:
        """Return √(Σ_k w_k λ_k) of each group, with λ_k the largest variance of component k."""
        spreads = self.spreads if self.axes.shape[-1] else self.covariances[:, None]
        largest = torch.linalg.eigvalsh(spreads)[..., -1].clamp(min=0)
        return (self.weights * largest).sum(1).sqrt()

    def to(self, device: torch.device) -> "GaussianData":
        moved = {name: each.to(device) for name, each in vars(self).items() if name != "shape"}
        return replace(self, **moved)

    def arrays(self) -> dict[str, Tensor]:
        """Return the arrays from which `from_arrays` builds the distribution."""
        arrays = {name: each for name, each in vars(self).items() if name != "shape"}
        means = self.means.unflatten(1, self.shape)
        return arrays | {"means": means, "basis": self.basis.half()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Tensor]) -> "GaussianData":
        means, basis = arrays["means"], _orthonormal(arrays["basis"].float())
        whole = arrays | {"means": means.flatten(1), "basis": basis}
        return cls(tuple(means.shape[1:]), **whole)

    def draw(
        self, noise: Tensor, sigma: float, labels: Tensor | None = None, which: Tensor | None = None
    ) -> Tensor:
        """Return y = x + σ n', N×C×H×W, computed from standard normal noise n; x is a drawn image.

        With P the projection onto the span of U V, and k the component of an image,

            y = μ + (I − P) √(C + σ²) n + U V (m_k + √(S_k + σ²) Vᵀ Uᵀ n).

        Args:
            labels: the classes of the images, N. Without labels, or if the distribution has no
                classes, group 0 is used.
            which: uniform numbers in [0, 1), N, that choose the components; if None, torch's
                default generator draws them.
        """
        out = torch.empty_like(noise.flatten(1))
        which = torch.rand(len(noise)) if which is None else which
        groups = torch.zeros(len(noise)).long()
        if labels is not None and self.has_classes:
            groups = 1 + labels.cpu()
            if not ((groups > 0) & (groups < len(self.means))).all():
                raise UserError(f"labels: must be classes from 0 to {len(self.means) - 2}")
        for g in groups.unique().tolist():
            chosen = (groups == g).to(noise.device)
            rest, c = self._outside(g, noise.flatten(1)[chosen], sigma)
            if c.shape[1]:
                values, vectors = torch.linalg.eigh(self.spreads[g].double())
                scales = (values.clamp(min=0) + sigma**2).sqrt()[:, None]
                roots = ((vectors * scales) @ vectors.mT).to(c.dtype)
                ends = self.weights[g].double().cumsum(0)
                k = torch.searchsorted(ends / ends[-1], which.to(ends)[chosen], right=True)
                c = self.centers[g][k] + torch.einsum("nij,nj->ni", roots[k], c)
                rest += c @ (self.basis @ self.axes[g]).T
            out[chosen] = rest
        return out.view_as(noise)

    def _outside(self, g: int, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """Return μ + (I − P) √(C + σ²) x, N×d, and the coordinates Vᵀ Uᵀ x, N×q."""
        values, vectors = torch.linalg.eigh(self.covariances[g].double())
        inside = (values.clamp(min=0) + sigma**2).sqrt()
        outside = (self.rests[g].double() + sigma**2).sqrt()
        V = self.axes[g].double()
        kept = torch.eye(len(V), dtype=V.dtype, device=V.device) - V @ V.T
        matrix = kept @ ((vectors * (inside - outside)) @ vectors.T) @ kept - outside * V @ V.T
        inner = x @ self.basis
        mapped = inner @ matrix.to(x.dtype) @ self.basis.T
        return self.means[g] + outside.to(x.dtype) * x + mapped, inner @ self.axes[g]


def _orthonormal(basis: Tensor) -> Tensor:
    """Return the orthonormal matrix nearest to a basis that was rounded to half precision."""
    values, vectors = torch.linalg.eigh((basis.T @ basis).double())
    return basis @ ((vectors * values.rsqrt()) @ vectors.T).to(basis.dtype)


class GaussianStart:
    """An initial distribution at the noise level σ₀: Gaussians fitted to the data, plus noise.

    In straight coordinates, z = R̃_t [√ρ y, u], only y depends on the image. Let x be an image
    drawn from the fitted distribution, y = x + σ₀ n and u ~ N(0, I). Then z has the distribution
    that the process gives to x at the time t₀ with σ_eff(t₀) = σ₀. The mean and the covariance of
    z are

        E[z] = a μ,      Cov[z] = Σ + a aᵀ ⊗ C.

    y and u are computed from the same noise as a draw from the prior at T. R̃_T⁻¹ √S converts this
    noise to straight coordinates. Therefore the prior and a single Gaussian give similar images
    from the same seed. (R̃_T⁻¹ √S is not exactly orthogonal, because some of the image remains at
    T; the nearest orthogonal matrix is used.)
    """

    def __init__(
        self, process: LinearProcess, data: GaussianData, sigma: float, final_time: float
    ) -> None:
        self.data, self.sigma = data, sigma
        time = time_of_noise_level(process, sigma, final_time)
        root = whitening_root(process, "straight", final_time)
        whitened = torch.linalg.solve(
            root(torch.ones_like(time))[0], process.prior_covariance.sqrt()
        )
        left, _, right = torch.linalg.svd(whitened)
        self.turn = left @ right
        self.root = root(time)[0]
        self.root[:, 0] /= sigma
        self.time = float(time)

    @all_bits()
    def __call__(
        self, noise: Tensor, labels: Tensor | None = None, which: Tensor | None = None
    ) -> Tensor:
        """Return z at `time` from standard normal noise, both N×kC×H×W.

        `labels` and `which` are described in `GaussianData.draw`.
        """
        channels = self.data.shape[0]
        drawn = mix(self.turn, noise)
        y = self.data.draw(drawn[:, :channels], self.sigma, labels, which)
        return mix(self.root, torch.cat([y, drawn[:, channels:]], dim=1))

    @all_bits()
    def images(
        self,
        noise: Tensor,
        labels: Tensor | None = None,
        which: Tensor | None = None,
        sigma: float = 0.0,
    ) -> Tensor:
        """Return y = x + σ n', N×C×H×W, with x from the fitted distribution.

        `noise`, `labels` and `which` are described in `__call__`. At σ = σ₀, y is the image part
        of the z that `__call__` returns. At σ = 0, the result is x itself, which is similar to the
        images in z.
        """
        first = mix(self.turn, noise)[:, : self.data.shape[0]]
        return self.data.draw(first, sigma, labels, which)
