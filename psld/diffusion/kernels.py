"""Linear SDEs dz = F(t) z dt + G(t) dw on k blocks: coefficients, transitions and moments.

`ConstantRecipe` has constant matrices and any schedule β; its kernel depends on time only through
∫β. In `VaryingSDE`, F and G Gᵀ may be any functions of time; the transitions and moments are
composed of steps of a Magnus expansion (`magnus`). Times are float64 tensors of any shape, which is
written as …; results have the shape …×k×k.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from psld.diffusion.matrices import semidefinite_root
from psld.utils.errors import UserError

Times = Tensor | float
Moments = tuple[Tensor, Tensor]
"""Φ and C, both …×k×k."""

TERMS = 24
"""Number of terms of a series in τ; for 2‖A‖τ ≤ 1, the omitted terms are below 1e-23."""

GAUSS_3 = ((1 - 0.6**0.5) / 2, 0.5, (1 + 0.6**0.5) / 2)
"""Nodes of Gauss–Legendre quadrature on [0, 1]."""

INSIDE = 1e-10
"""The distance of the outer quadrature nodes from the ends of a piece, divided by its length."""

FIRST_PIECES = 16
MOST_PIECES = 2**14

PRECISION = 1e-11
"""The largest allowed change of Φ, relative to its largest entry, and of each C_ij, relative to
√(C_ii C_jj), when a piece is halved. The results use the halves, whose errors are about 64 times
smaller than this change."""

FINEST = 1e-12
"""Pieces shorter than this are not halved. Without this limit, halving would not end if the noise
begins like √t, or begins at a time that is not in `jumps`."""


class Schedule(Protocol):
    """The interface of noise schedules."""

    def __call__(self, t: Times) -> Tensor:
        """Return β(t)."""
        ...

    def integral(self, t: Times) -> Tensor:
        """Return B(t) = ∫₀ᵗ β(s) ds."""
        ...


class LinearKernel:
    """Mean and covariance of dz = −A z dτ + √(2D) dw from a known initial state.

        Φ(τ) = exp(−A τ),      C(τ) = ∫₀^τ Φ(u) 2D Φ(u)ᵀ du

    C solves Ċ = 2D − A C − C Aᵀ. The power series of C therefore has the coefficients

        C(τ) = Σ_{n≥1} C_n τⁿ/n!,      C₁ = 2D,      C_{n+1} = −(A C_n + C_n Aᵀ).

    The leading term of some entries is τ³ or τ⁵. An example is the variance of a position that
    receives its noise through a momentum. The lower coefficients of these entries are exactly 0, so
    nothing cancels as τ → 0, where the closed form S − Φ S Φᵀ would lose all digits. Longer times
    follow by doubling: C(2τ) = C(τ) + Φ(τ) C(τ) Φ(τ)ᵀ.
    """

    def __init__(self, A: Tensor, D: Tensor) -> None:
        """`A` and `D`: k×k, float64."""
        self.norm = float(torch.linalg.matrix_norm(A))
        powers, covariances = [torch.eye(len(A), dtype=torch.float64)], [2 * D]
        for n in range(1, TERMS):
            powers.append(-(A @ powers[-1]) / n)
            last = covariances[-1]
            covariances.append(-(A @ last + last @ A.T) / (n + 1))
        self.transition_series = torch.stack(powers)
        self.covariance_series = torch.stack(covariances)

    def transition(self, elapsed: Tensor) -> Tensor:
        """Return Φ(τ), …×k×k, for elapsed times τ of any shape … and any sign."""
        doublings = self._doublings(elapsed)
        phi = _series(self.transition_series, elapsed / 2**doublings)
        for _ in range(doublings):
            phi = phi @ phi
        return phi

    def moments(self, elapsed: Tensor) -> Moments:
        """Return (Φ, C), both …×k×k, after elapsed times τ ≥ 0 of any shape …."""
        doublings = self._doublings(elapsed)
        tau = elapsed / 2**doublings
        phi = _series(self.transition_series, tau)
        covariance = tau[..., None, None] * _series(self.covariance_series, tau)
        return _doubled(phi, covariance, doublings)

    def _doublings(self, elapsed: Tensor) -> int:
        """Return how often the longest time must be halved to give 2‖A‖τ ≤ 1."""
        return _halvings(2 * self.norm * max(elapsed.abs().flatten().tolist(), default=0.0))


class ConstantRecipe:
    """The recipe with constant D, Q and S: F = −β(t) (D + Q) S⁻¹ and G Gᵀ = 2 β(t) D."""

    def __init__(self, D: Tensor, Q: Tensor, S: Tensor, beta: Schedule) -> None:
        inverse = torch.linalg.inv(S)
        self.D, self.beta = D, beta
        self.rate = (D + Q) @ inverse
        """(D + Q) S⁻¹: the drift is −β(t) · rate · z."""
        self._forward = LinearKernel(self.rate, D)
        self._reversed = LinearKernel((D - Q) @ inverse, D)

    def drift(self, t: Tensor) -> Tensor:
        """Return F."""
        return -self.beta(t)[..., None, None] * self.rate

    def diffusion_squared(self, t: Tensor) -> Tensor:
        """Return G Gᵀ."""
        return 2 * self.beta(t)[..., None, None] * self.D

    def diffusion(self, t: Tensor) -> Tensor:
        """Return the symmetric root G of G Gᵀ."""
        return (2 * self.beta(t))[..., None, None].sqrt() * semidefinite_root(self.D)

    def transition(self, t: Tensor) -> Tensor:
        """Return Φ from 0 to t."""
        return self._forward.transition(self.beta.integral(t))

    def transition_between(self, start: Tensor, end: Tensor) -> Tensor:
        """Return Φ from `start` to `end`, in either direction of time."""
        return self._forward.transition(self.beta.integral(end) - self.beta.integral(start))

    def moments(self, t: Tensor) -> Moments:
        """Return Φ and C at t: z_t ~ N(Φ z₀, C) for a known z₀."""
        return self._forward.moments(self.beta.integral(t))

    def reverse_moments(self, start: Tensor, end: Tensor) -> Moments:
        """Return Φ and C of dz = −β (D − Q) S⁻¹ z ds + √(2 β D) dw, from time `start` down to
        `end`."""
        return self._reversed.moments(self.beta.integral(start) - self.beta.integral(end))


class VaryingSDE:
    """Any linear SDE: F and G Gᵀ are functions of time.

    The generator of Φ and C is H = [[F, G Gᵀ], [0, −Fᵀ]], with exp(H) = [[Φ, C Φ⁻ᵀ], [0, Φ⁻ᵀ]] (Van
    Loan, 1978). A Magnus step of order 6 has a generator of the same form, because these matrices
    form a Lie algebra. The steps compose: C ← φ C φᵀ + c, Φ ← φ Φ. [0, T] is divided into pieces,
    which are halved until their moments no longer change (`PRECISION`). The moments at the ends of
    the pieces are tabulated. One more step leads from a tabulated time to any time.
    """

    def __init__(
        self,
        coefficients: Callable[[Tensor], tuple[Tensor, Tensor]],
        jumps: Sequence[float] = (),
        last: float = 1.0,
    ) -> None:
        """Tabulate the moments between 0 and `last`.

        Args:
            coefficients: returns F and G Gᵀ, both …×k×k, at times ….
            jumps: the times at which a coefficient is discontinuous.

        Raises UserError if `MOST_PIECES` pieces are not enough.
        """
        self.coefficients = coefficients
        self._last: tuple[Tensor, Moments] | None = None
        """The times and results of the last call of `moments`, for reuse at the same times."""
        even = torch.linspace(0, last, FIRST_PIECES + 1, dtype=torch.float64)
        self.edges = torch.cat([even, even.new_tensor(jumps)]).unique()
        while (rough := self._tabulated()).any():
            if len(self.edges) > MOST_PIECES:
                at = float(self.edges[:-1][rough][0])
                raise UserError(
                    f"process: its moments do not converge near t = {at:.4g}; name the times at "
                    "which its coefficients jump (jumps)"
                )
            middle = (self.edges[:-1] + self.edges[1:]) / 2
            self.edges = torch.cat([self.edges, middle[rough]]).sort().values

    def _tabulated(self) -> Tensor:
        """Tabulate the moments at the ends of the pieces, and return which pieces are too long."""
        start, end = self.edges[:-1], self.edges[1:]
        middle = (start + end) / 2
        phi, covariance = self._step(start, end)
        halves = _composed(self._step(start, middle), self._step(middle, end))
        moments = [(torch.eye(phi.shape[-1], dtype=torch.float64), torch.zeros_like(phi[0]))]
        for each in zip(*halves, strict=True):
            moments.append(_composed(moments[-1], each))
        self._transitions, self._covariances = map(torch.stack, zip(*moments, strict=True))
        spread = self._covariances[1:].diagonal(dim1=-2, dim2=-1).sqrt()
        largest = phi.abs().amax(dim=(-2, -1), keepdim=True)
        off = (phi - halves[0]).abs() > PRECISION * largest
        scale = spread[:, :, None] * spread[:, None]
        off |= (covariance - halves[1]).abs() > PRECISION * scale
        drift_error, diffusion_error = self._lobatto_errors()
        off |= drift_error > PRECISION * largest
        off |= diffusion_error > PRECISION * scale
        return off.flatten(1).any(dim=1) & (end - start > FINEST)

    def _lobatto_errors(self) -> tuple[Tensor, Tensor]:
        """Integrate F and G Gᵀ over each piece with two quadratures, and return the differences.

        One is Gauss–Lobatto quadrature, which uses the ends of the piece; the other uses the nodes
        of `_step`. The difference reveals a jump of F or G Gᵀ between an end and the nearest node
        of `_step`. A comparison of the piece with its halves would miss such a jump.
        """
        h = self.edges.diff()[:, None]
        inner = 0.2**0.5 / 2
        # Evaluate inside the piece, because a coefficient may jump at its ends.
        stops = h.new_tensor([INSIDE, 0.5 - inner, 0.5 + inner, 1 - INSIDE, *GAUSS_3])
        weights = h.new_tensor([1 / 12, 5 / 12, 5 / 12, 1 / 12, -5 / 18, -8 / 18, -5 / 18])
        found = self.coefficients(self.edges[:-1, None] + h * stops)
        drift, diffusion = (
            (h[..., None] * (weights[:, None, None] * each).sum(1)).abs() for each in found
        )
        return drift, diffusion

    def drift(self, t: Tensor) -> Tensor:
        """Return F."""
        return self.coefficients(t)[0]

    def diffusion_squared(self, t: Tensor) -> Tensor:
        """Return G Gᵀ."""
        return self.coefficients(t)[1]

    def diffusion(self, t: Tensor) -> Tensor:
        """Return the symmetric root G of G Gᵀ."""
        return semidefinite_root(self.diffusion_squared(t))

    def moments(self, t: Tensor) -> Moments:
        """Return Φ and C at t: z_t ~ N(Φ z₀, C) for a known z₀."""
        if self._last and torch.equal(self._last[0], t):
            return self._last[1]
        before = self._piece(t)
        known = self._transitions[before], self._covariances[before]
        found = _composed(known, self._step(self.edges[before], t))
        self._last = t.clone(), found
        return found

    def transition(self, t: Tensor) -> Tensor:
        """Return Φ from 0 to t."""
        return self.moments(t)[0].clone()  # Copy Φ, because the moments are cached.

    def transition_between(self, start: Tensor, end: Tensor) -> Tensor:
        """Return Φ from `start` to `end`, in either direction of time."""
        # Compose steps, because Φ(end) Φ(start)⁻¹ loses the digits of modes that have decayed.
        low, high = torch.minimum(start, end), torch.maximum(start, end)
        phi = torch.eye(self._transitions.shape[-1], dtype=torch.float64)
        for first, last in pairwise(self.edges):
            phi = self._step(low.clamp(first, last), high.clamp(first, last))[0] @ phi
        is_forward = (start <= end)[..., None, None]
        return phi if is_forward.all() else torch.where(is_forward, phi, torch.linalg.inv(phi))

    def _piece(self, t: Tensor) -> Tensor:
        """Return the index of the piece that contains t."""
        return (torch.searchsorted(self.edges, t.contiguous(), right=True) - 1).clamp(
            0, len(self.edges) - 2
        )

    def _step(self, start: Tensor, end: Tensor) -> Moments:
        """Return Φ and C of one Magnus step."""
        h = (end - start)[..., None]
        F, squared = self.coefficients(start[..., None] + h * h.new_tensor(GAUSS_3))
        H = torch.cat([torch.cat([F, squared], -1), torch.cat([0 * F, -F.mT], -1)], -2)
        omega = magnus(*(h[..., None, None] * H).unbind(-3))
        halvings = _halvings(
            2 * float(torch.linalg.matrix_norm(omega[..., : F.shape[-1], :]).max())
        )
        exponential = _small_exponential(omega * 0.5**halvings)
        top = exponential[..., : F.shape[-1], :]
        phi, rest = top.tensor_split(2, dim=-1)
        return _doubled(phi, rest @ phi.mT, halvings)


def _small_exponential(X: Tensor) -> Tensor:
    """Return Σ_{n<16} Xⁿ/n!, …×k×k, in six products; the remainder is below 1e-17 for ‖X‖ ≤ ½.

    Where entries of X are small, such as the noise of a momentum at early times, the entries of its
    powers are small, too. Every entry of the result is therefore accurate relative to its own size.
    """
    square = X @ X
    cube, fourth = square @ X, square @ square
    powers = torch.stack([torch.eye(X.shape[-1], dtype=X.dtype).expand_as(X), X, square, cube])
    inverse = torch.tensor([1 / math.factorial(n) for n in range(16)], dtype=X.dtype).view(4, 4)
    *lower, result = torch.tensordot(inverse, powers, dims=1)
    for each in reversed(lower):
        result = each + fourth @ result
    return result


def magnus(first: Tensor, middle: Tensor, last: Tensor) -> Tensor:
    """Return Ω such that exp(Ω) solves Ẏ = A Y over a step of length h, to order 6.

    `first`, `middle` and `last` are h A at the Gauss–Legendre nodes (Blanes, Casas, Oteo and Ros,
    The Magnus expansion and some of its applications, 2009, Eq. 257).
    """
    a = middle
    b = (5 / 3) ** 0.5 * (last - first)
    c = 10 / 3 * (last - 2 * middle + first)
    inner = _commutator(a, b)
    outer = -_commutator(a, 2 * c + inner) / 60
    return a + c / 12 + _commutator(-20 * a - c + inner, b + outer) / 240


def _commutator(a: Tensor, b: Tensor) -> Tensor:
    return a @ b - b @ a


def _composed(first: Moments, second: Moments) -> Moments:
    """Return Φ and C over two consecutive intervals."""
    (phi, covariance), (later, added) = first, second
    return later @ phi, later @ covariance @ later.mT + added


def _series(coefficients: Tensor, tau: Tensor) -> Tensor:
    """Return Σ_n coefficients_n τⁿ, …×k×k."""
    return torch.tensordot(torch.linalg.vander(tau, N=len(coefficients)), coefficients, dims=1)


def _doubled(phi: Tensor, covariance: Tensor, doublings: int) -> Moments:
    """Return Φ and C after doubling the elapsed time `doublings` times."""
    for _ in range(doublings):
        covariance = covariance + phi @ covariance @ phi.mT
        phi = phi @ phi
    return phi, covariance


def _halvings(norm: float) -> int:
    """Return the smallest n ≥ 0 with norm / 2ⁿ ≤ 1."""
    return max(0, math.ceil(math.log2(norm))) if norm > 0 else 0
