"""The recipe of the paper for forward processes: a linear SDE on k blocks.

A state z stacks k blocks of C channels each (k = 1: the image x; k = 2: position x and momentum m).
All coefficients are k×k matrices that act on blocks. The coefficients depend only on time, so they
are computed in float64 on the CPU, once per distinct time, and applied to float32 images.
"""

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, Literal, Self

import torch
from torch import Tensor

from psld.diffusion.kernels import ConstantRecipe, VaryingSDE
from psld.diffusion.matrices import (
    Matrix,
    Vector,
    as_coefficient,
    as_float64,
    as_times,
    check_convergence,
    check_diffusion,
    check_initial_variance,
    check_recipe,
    check_schedule,
    mix,
    predicted_text,
)
from psld.diffusion.schedules import LinearBeta, Schedule, Times, as_schedule
from psld.utils.errors import UserError

__all__ = ["LinearBeta", "LinearProcess", "Times"]

LEAST_LEFT, MOST_LEFT = 1e-9, 0.1
"""Bounds on √ρ(T) = 1/σ_eff(T), which says how much of the image remains at T, relative to the
noise. In the paper's processes, less than 0.01 remains."""

FAR_FROM_PRIOR = 0.01
"""The largest allowed deviation of Σ_ij(T) from the prior's covariance, relative to √(S_i S_j)."""

SAMPLED = torch.linspace(0, 1, 101, dtype=torch.float64)
"""The times at which functions of time are checked."""

MatrixFunction = Callable[[Tensor], Any]
"""A function of float64 times, …, that returns matrices, …×k×k, or rows whose entries are numbers
or tensors in the shape of the times."""


class LinearProcess:
    """A forward process: a linear SDE on k blocks whose end is close to a Gaussian prior.

    The recipe of the paper (Eqs. 2–4) has the stationary distribution N(0, S):

        dz = −β(t) (D + Q) S⁻¹ z dt + √(2 β(t) D) dw

    D, Q and β may be functions of time. `of_sde` accepts any linear SDE. With Φ the
    transition matrix of the drift and C the covariance that the noise has added, the perturbation
    kernel is Gaussian with

        mean(t) = Φ z₀,        Σ(t) = Φ Σ₀ Φᵀ + C,

    where C is computed without cancellation (`psld.diffusion.kernels`).

    Hybrid score matching (HSM) marginalizes the auxiliary blocks of z₀, which have mean 0 and
    covariance Σ₀. Under denoising score matching (DSM), z₀ is known and Σ₀ = 0.

        >>> process = PSLDSettings(kind="psld", gamma=0.01).build()
        >>> z = process.perturb(x0, t, eps)            # t: N times in (0, 1], float64
        >>> score = mix(process.score_matrix(t), network(z, t.float()))

    Times are tensors of shape (N,) and any type, or one number. Matrices are float64 of shape
    (N, k, k), on the CPU. Times of shape (N, m) give matrices of shape (N, m, k, k).
    """

    T: float = 1.0

    def __init__(
        self,
        D: Matrix | MatrixFunction,
        Q: Matrix | MatrixFunction,
        S: Vector,
        beta: Schedule | Callable[[Tensor], Any] | float,
        *,
        initial_variance: Vector,
        matching: Literal["hsm", "dsm"] = "hsm",
        factor: Literal["lower", "upper"] = "lower",
        numerical_eps: float = 0.0,
        jumps: Sequence[float] = (),
    ) -> None:
        """Check the conditions of the recipe. Raises a UserError that names the violated condition.

        Args:
            D: k×k, symmetric positive semi-definite, or a function of time.
            Q: k×k, skew-symmetric, or a function of time.
            S: k stationary variances.
            beta: a number, a function of time or a schedule (`psld.diffusion.schedules`).
            initial_variance: k variances of z₀, with 0 for block 0, the image.
            numerical_eps: added to the diagonal of Σ(t).
            jumps: the times at which D, Q or β is discontinuous.
        """
        self.D: Any  # a tensor, or a function of time
        self.Q: Any
        self.beta = as_schedule(beta, jumps)
        check_schedule(self.beta)
        self.jumps = tuple(sorted({*jumps, *getattr(self.beta, "jumps", ())}))
        """The times at which drift or diffusion is discontinuous."""
        if callable(D) or callable(Q):
            S, initial = as_float64(S=S, initial_variance=initial_variance)
            self.D, self.Q = (as_coefficient(each, len(S)) for each in (D, Q))
            check_recipe(self.D(SAMPLED), self.Q(SAMPLED), S)
            sde = self._varying_recipe(S)
        else:
            constants = as_float64(D=D, Q=Q, S=S, initial_variance=initial_variance)
            self.D, self.Q, S, initial = constants
            check_recipe(self.D, self.Q, S)
            sde = ConstantRecipe(self.D, self.Q, torch.diag(S), self.beta)
            check_convergence(sde.rate, float(self.beta.integral(as_times(self.T))))
        self.S = torch.diag(S)
        self._complete(sde, S, initial, matching, factor, numerical_eps)

    @classmethod
    def of_sde(
        cls,
        drift: Matrix | MatrixFunction,
        diffusion_squared: Matrix | MatrixFunction,
        prior_variance: Vector,
        *,
        initial_variance: Vector | None = None,
        matching: Literal["hsm", "dsm"] = "hsm",
        factor: Literal["lower", "upper"] = "lower",
        numerical_eps: float = 0.0,
        jumps: Sequence[float] = (),
    ) -> Self:
        """Return the process of a linear SDE dz = F(t) z dt + G(t) dw.

        At T, the image must be forgotten and the blocks nearly independent: Σ(T) ≈ diag of the
        variances of the prior.

            # The sub-VP SDE (Song et al., 2021), with β and its integral B.
            LinearProcess.of_sde(
                lambda t: -0.5 * beta(t), lambda t: beta(t) * -torch.expm1(-2 * B(t)), [1.0]
            )

        Args:
            drift: F, k×k, or a function of time.
            diffusion_squared: G Gᵀ, k×k, or a function of time.
            prior_variance: k variances of the prior, from which samplers start.
            initial_variance: k variances of z₀, with 0 for block 0, the image. By default all 0.
            numerical_eps: added to the diagonal of Σ(t).
            jumps: the times at which F or G is discontinuous.

        Raises UserError if Σ(T) is not close to the prior, or if too much of the image remains.
        """
        process = cls.__new__(cls)
        initial_variance = (
            [0.0] * len(prior_variance) if initial_variance is None else initial_variance
        )
        prior, initial = as_float64(
            prior_variance=prior_variance, initial_variance=initial_variance
        )
        F, squared = (as_coefficient(each, len(prior)) for each in (drift, diffusion_squared))
        check_diffusion(squared(SAMPLED), "G Gᵀ")
        process.jumps = tuple(jumps)
        sde = VaryingSDE(lambda t: (F(t), squared(t)), process.jumps, cls.T)
        process._complete(sde, prior, initial, matching, factor, numerical_eps)
        return process

    def _varying_recipe(self, S: Tensor) -> VaryingSDE:
        D, Q, beta = self.D, self.Q, self.beta

        def coefficients(t: Tensor) -> tuple[Tensor, Tensor]:
            rate, noise = beta(t)[..., None, None], D(t)
            return -rate * (noise + Q(t)) / S, 2 * rate * noise

        return VaryingSDE(coefficients, self.jumps, self.T)

    def _complete(
        self,
        sde: ConstantRecipe | VaryingSDE,
        prior_variance: Tensor,
        initial_variance: Tensor,
        matching: Literal["hsm", "dsm"],
        factor: Literal["lower", "upper"],
        numerical_eps: float,
    ) -> None:
        """Set the attributes that `__init__` and `of_sde` share, and check the process at T."""
        check_initial_variance(initial_variance)
        self.sde = sde
        self.prior_covariance = torch.diag(prior_variance)
        self.initial_covariance = torch.diag(initial_variance)
        self.matching = matching
        self.factor = factor
        self.numerical_eps = numerical_eps
        self.blocks = len(prior_variance)
        self.predicted = self._predicted_blocks()
        if isinstance(sde, VaryingSDE):
            self._check_end()
        left = float(self.precision(self.T).sqrt())
        found = f"process: relative to the noise, {left:.2g} of the image remains at its final time"
        if left < LEAST_LEFT:
            raise UserError(
                f"{found}, too little for float32, which needs {LEAST_LEFT}; lower β (beta_min, "
                "beta_max) or the drift (for PSLD, gamma and mass_inverse)"
            )
        if not left <= MOST_LEFT:
            raise UserError(
                f"{found}, but samplers start from the prior, which allows {MOST_LEFT}; raise "
                "β (beta_min, beta_max) or the noise"
            )

    def _check_end(self) -> None:
        """Raise UserError unless Σ(T) is close to the covariance of the prior."""
        end, prior = self.image_covariance(self.T)[0], self.prior_covariance
        spread = prior.diagonal().sqrt()
        far = ((end - prior) / (spread[:, None] * spread)).abs()
        if not far.max() <= FAR_FROM_PRIOR:
            raise UserError(
                f"process: its covariance at the final time is {end.tolist()}, and that of the "
                f"prior {prior.tolist()}; they may differ by {FAR_FROM_PRIOR:.0%}; correct the "
                "variances of the prior or the coefficients"
            )

    def __repr__(self) -> str:
        if isinstance(self.sde, ConstantRecipe):
            D, Q, S = self.D.tolist(), self.Q.tolist(), self.S.diagonal().tolist()
            what = f"D = {D}, Q = {Q}, S = {S}, {self.beta}"
        else:
            variances = self.prior_covariance.diagonal().tolist()
            what = f"F(t) and G(t) on {self.blocks} blocks, prior variances {variances}"
        return f"<{type(self).__name__}: {what}, {self.matching}, {self.factor} factor>"

    def build(self) -> "LinearProcess":
        """Return the process itself, so that a process can be passed in place of its settings."""
        return self

    def _predicted_blocks(self) -> slice:
        """Return the blocks of ε that the network predicts.

        A block without noise at all times (D_ii = 0) needs no score. L⁻ᵀ is triangular, so
        noise-free blocks need no prediction if they come first (lower factor) or last (upper
        factor). CLD (Γ = 0) with the lower factor therefore predicts only the noise of the
        momentum.
        """
        noise = self.diffusion_squared(SAMPLED).diagonal(dim1=-2, dim2=-1)
        noisy = noise.any(dim=0).nonzero().flatten().tolist()
        if self.factor == "lower":
            return slice(noisy[0], self.blocks)
        return slice(0, noisy[-1] + 1)

    @property
    def predicted_blocks(self) -> int:
        """The number p of blocks of ε that the network predicts."""
        return self.predicted.stop - self.predicted.start

    def until(self, time: float) -> Self:
        """Return the same process with the final time T = `time`, at which samplers then start."""
        process = copy(self)
        process.T = time
        return process

    @property
    def needs_auxiliary_noise(self) -> bool:
        """True if `perturb` needs draws of the auxiliary blocks of z₀ (DSM)."""
        return self.matching == "dsm" and self.blocks > 1

    # -- perturbation kernel --------------------------------------------------------------------

    def transition(self, t: Times) -> Tensor:
        """Return Φ(t), N×k×k, the transition matrix of the drift from time 0 to t."""
        return self.sde.transition(as_times(t))

    def transition_between(self, start: Times, end: Times) -> Tensor:
        """Return the transition matrices of the drift, N×k×k, from each time in `start` to the
        corresponding time in `end`.

        `end` may be before `start`.
        """
        return self.sde.transition_between(as_times(start), as_times(end))

    def covariance(self, t: Times) -> Tensor:
        """Return Σ(t), N×k×k, of p(z_t | x₀) under HSM or of p(z_t | z₀) under DSM."""
        if self.matching == "hsm":
            return self.image_covariance(t)
        return self._regularized(self.sde.moments(as_times(t))[1])

    def covariance_factor(self, t: Times) -> Tensor:
        """Return the triangular factor of Σ(t), N×k×k: L with Σ = L Lᵀ, or U with Σ = U Uᵀ."""
        return self._factorize(self.covariance(t))

    def perturb(
        self, x0: Tensor, t: Times, eps: Tensor, auxiliary_eps: Tensor | None = None
    ) -> Tensor:
        """Return z_t = mean(t) + L(t) ε, N×kC×H×W, a draw from the perturbation kernel.

        Args:
            x0: N×C×H×W images in [−1, 1].
            t: N times.
            eps: N×kC×H×W standard normal.
            auxiliary_eps: N×(k−1)C×H×W standard normal for the auxiliary blocks of z₀; required
                under DSM, unused under HSM.
        """
        return self.mean(x0, t, auxiliary_eps) + mix(self.covariance_factor(t), eps)

    def mean(self, x0: Tensor, t: Times, auxiliary_eps: Tensor | None = None) -> Tensor:
        """Return the mean of z_t, N×kC×H×W. `perturb` describes the arguments.

        Raises ValueError without `auxiliary_eps` under DSM.
        """
        phi = self.transition(t)
        if not self.needs_auxiliary_noise:
            return mix(phi[..., :1], x0)
        if auxiliary_eps is None:
            raise ValueError("denoising score matching needs auxiliary_eps")
        auxiliary = mix(self.initial_covariance[1:, 1:].sqrt(), auxiliary_eps)
        return mix(phi, torch.cat([x0, auxiliary], dim=1))

    def score_matrix(self, t: Times) -> Tensor:
        """Return −L⁻ᵀ, N×k×p, which maps the p predicted blocks of ε to the score (paper, Eq. 9).

        Rows of blocks that are not predicted are 0, because no step uses the score of these blocks.
        """
        inverse = torch.linalg.inv(self.covariance_factor(t)).mT
        matrix = inverse.new_zeros(*inverse.shape[:-1], self.predicted_blocks)
        matrix[..., self.predicted, :] = -inverse[..., self.predicted, self.predicted]
        return matrix

    def checked(self, eps: Tensor, z: Tensor) -> Tensor:
        """Return a network's prediction of ε, N×pC×H×W, in the type of the state z, N×kC×H×W.

        Raises UserError for another shape, which torch might silently broadcast.
        """
        channels = z.shape[1] // self.blocks
        needed = self.predicted_blocks * channels
        if not isinstance(eps, Tensor) or eps.shape != (len(z), needed, *z.shape[2:]):
            raise UserError(
                f"network: predicts {predicted_text(eps)} for states of {tuple(z.shape)}; the "
                f"process needs {needed} channels: ε in {self.predicted_blocks} of {self.blocks} "
                f"blocks with {channels} channels each"
            )
        return eps.to(z.dtype)

    def prior(self, noise: Tensor) -> Tensor:
        """Turn standard normal noise into a draw from the prior; both have the same shape."""
        return mix(self.prior_covariance.sqrt(), noise)

    # -- the kernel given the image, under HSM and DSM -------------------------------------------

    def image_mean(self, t: Times) -> Tensor:
        """Return a(t) = Φ(t) e_x, N×k: E[z_t | x₀] = a x₀."""
        return self.transition(t)[..., 0]

    def image_covariance(self, t: Times) -> Tensor:
        """Return Σ(t) = Φ Σ₀ Φᵀ + C, N×k×k, the covariance of p(z_t | x₀); the noise adds C.

        Under HSM, this matrix equals `covariance`. Under DSM, it differs: the auxiliary blocks of
        z₀ are marginalized here, but known in `covariance`. Every entry of both terms is exact up
        to a few roundings, even for very small t.
        """
        phi, noise = self.sde.moments(as_times(t))
        return self._regularized(phi @ self.initial_covariance @ phi.mT + noise)

    def image_factor(self, t: Times) -> Tensor:
        """Return the triangular factor L(t) of `image_covariance`, N×k×k, with L Lᵀ = Σ."""
        return self._factorize(self.image_covariance(t))

    def whitened_mean(self, t: Times) -> Tensor:
        """Return c(t) = L⁻¹ a, N×k: given x₀, L⁻¹ z_t ~ N(c x₀, I)."""
        a = self.image_mean(t)[..., None]
        return torch.linalg.solve(self.image_factor(t), a)[..., 0]

    def precision(self, t: Times) -> Tensor:
        """Return the signal-to-noise ratio (SNR) ρ(t) = aᵀ Σ⁻¹ a, N; it decreases with t.

        The sufficient statistic of z_t for x₀ is y = aᵀ Σ⁻¹ z_t / ρ = x₀ + N(0, 1/ρ).
        """
        return self.whitened_mean(t).square().sum(dim=-1)

    def noise_level(self, t: Times) -> Tensor:
        """Return the noise level σ_eff(t) = ρ^(−½), N, in units of the image."""
        return self.precision(t).rsqrt()

    def log_snr(self, t: Times) -> Tensor:
        """Return λ(t) = −log σ_eff, N: half the logarithm of the SNR; it decreases with t."""
        return 0.5 * self.precision(t).log()

    def image_diffusion_squared(self, t: Times) -> Tensor:
        """Return Σ̇ − F Σ − Σ Fᵀ, N×k×k, with F the drift and Σ the `image_covariance`.

        Without `numerical_eps`, this equals G Gᵀ. With `numerical_eps` = e, the regularized Σ
        evolves as if the squared diffusion were G Gᵀ − e (F + Fᵀ). The difference matters where
        Σ is as small as e.
        """
        drift = self.drift(t)
        return self.diffusion_squared(t) - self.numerical_eps * (drift + drift.mT)

    def log_snr_rate(self, t: Times) -> Tensor:
        """Return dλ/dt = −½ bᵀ (Σ̇ − F Σ − Σ Fᵀ) b / ρ with b = Σ⁻¹ a, N."""
        inverse = torch.linalg.inv(self.image_factor(t))
        b = inverse.mT @ (inverse @ self.image_mean(t)[..., None])
        rate = -0.5 * b.mT @ self.image_diffusion_squared(t) @ b
        return rate[..., 0, 0] / self.precision(t)

    # -- drift and diffusion, forward and reverse -----------------------------------------------

    def drift(self, t: Times) -> Tensor:
        """Return F(t), N×k×k; for the recipe, −β(t) (D + Q) S⁻¹."""
        return self.sde.drift(as_times(t))

    def diffusion_squared(self, t: Times) -> Tensor:
        """Return G Gᵀ, N×k×k; for the recipe, 2 β(t) D.

        In reverse time, the drift of the reverse SDE (paper, Eq. 11) is −drift·z + G Gᵀ·score, and
        the drift of the probability-flow ODE is −drift·z + ½ G Gᵀ·score.
        """
        return self.sde.diffusion_squared(as_times(t))

    def diffusion(self, t: Times) -> Tensor:
        """Return G(t), N×k×k, the symmetric root of G Gᵀ."""
        return self.sde.diffusion(as_times(t))

    def reverse_linear_step(self, start: Times, end: Times) -> tuple[Tensor, Tensor]:
        """Solve the linear part of SSCS exactly from forward time `start` down to `end` < `start`.

        In reverse time s, the linear part of the symmetric splitting CLD sampler (SSCS; paper,
        Eq. 12) is dz = −β (D − Q) S⁻¹ z ds + √(2 β D) dw. This is the forward process with −Q in
        place of Q, started at a known state.

        Returns:
            (Φ, L), both N×k×k: z ← Φ z + L ξ with ξ standard normal.

        Raises UserError unless D, Q and S are constant.
        """
        if not isinstance(self.sde, ConstantRecipe):
            raise UserError(
                "process: sscs needs constant matrices D, Q and S; use em, rk45 or multistep"
            )
        phi, covariance = self.sde.reverse_moments(as_times(start), as_times(end))
        return phi, self._factorize(self._regularized(covariance))

    def _regularized(self, covariance: Tensor) -> Tensor:
        return covariance + self.numerical_eps * torch.eye(self.blocks, dtype=torch.float64)

    def _factorize(self, covariance: Tensor) -> Tensor:
        try:
            if self.factor == "lower":
                return torch.linalg.cholesky(covariance)
            return torch.linalg.cholesky(covariance.flip(-1, -2)).flip(-1, -2)
        except RuntimeError:
            raise UserError(
                "process: its covariance is numerically singular at an early time; raise "
                "process.numerical_eps, sampler.final_time or training.time_eps"
            ) from None
