"""The recipe of the paper for forward processes: a linear SDE on k blocks.

A state z stacks k blocks of C channels each (k = 1: the image x; k = 2: position x and momentum m).
All coefficients are k×k matrices that act on blocks. The coefficients depend only on time, so they
are computed in float64 on the CPU, once per distinct time, and applied to float32 images.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from psld.diffusion.matrices import (
    LinearKernel,
    Matrix,
    Vector,
    as_float64,
    as_times,
    check_convergence,
    check_recipe,
    check_schedule,
    mix,
    predicted_text,
    semidefinite_root,
)
from psld.utils.errors import UserError

Times = Tensor | float

LEAST_LEFT, MOST_LEFT = 1e-9, 0.1
"""Bounds of |a(T)|, the factor of the image at T. The paper's processes have |a(T)| < 0.01."""


@dataclass(frozen=True)
class LinearBeta:
    """The linear schedule β(t) = β₀ + t (β₁ − β₀) for t ∈ [0, 1]."""

    beta_min: float
    beta_max: float

    def __call__(self, t: Times) -> Tensor:
        return self.beta_min + as_times(t) * (self.beta_max - self.beta_min)

    def integral(self, t: Times) -> Tensor:
        """Return B(t) = ∫₀ᵗ β(s) ds."""
        t = as_times(t)
        return self.beta_min * t + 0.5 * t**2 * (self.beta_max - self.beta_min)


class LinearProcess:
    """The forward SDE of the recipe (paper, Eqs. 2–4) for a Gaussian stationary distribution.

        dz = −β(t) (D + Q) S⁻¹ z dt + √(2 β(t) D) dw,      z(∞) ~ N(0, S)

    With B(t) = ∫₀ᵗ β and Φ(t) = exp(−(D + Q) S⁻¹ B(t)), the perturbation kernel is Gaussian with

        mean(t) = Φ z₀,        Σ(t) = S + Φ (Σ₀ − S) Φᵀ,

    where S − Φ S Φᵀ is computed without cancellation (`matrices.LinearKernel`).

    Hybrid score matching (HSM) marginalizes the auxiliary blocks of z₀, which have mean 0 and
    covariance Σ₀. Under denoising score matching (DSM), z₀ is known and Σ₀ = 0.

        >>> process = PSLDSettings(kind="psld", gamma=0.01).build()
        >>> z = process.perturb(x0, t, eps)            # t: N times in (0, 1], float64
        >>> score = mix(process.score_matrix(t), network(z, t.float()))

    Times are tensors of shape (N,) and any type, or one number. Matrices are float64 of shape
    (N, k, k), on the CPU. Times of shape (N, m) give matrices of shape (N, m, k, k).
    """

    T = 1.0

    def __init__(
        self,
        D: Matrix,
        Q: Matrix,
        S: Vector,
        beta: LinearBeta,
        *,
        initial_variance: Vector,
        matching: Literal["hsm", "dsm"] = "hsm",
        factor: Literal["lower", "upper"] = "lower",
        numerical_eps: float = 0.0,
    ) -> None:
        """Check the conditions of the recipe. Raises UserError that names the violated condition.

        Args:
            D: k×k, symmetric positive semi-definite.
            Q: k×k, skew-symmetric.
            S: k stationary variances.
            initial_variance: k variances of z₀, with 0 for block 0, the image.
            numerical_eps: added to the diagonal of Σ(t).
        """
        self.D, self.Q, S, initial_variance = as_float64(
            D=D, Q=Q, S=S, initial_variance=initial_variance
        )
        self.S, self.initial_covariance = torch.diag(S), torch.diag(initial_variance)
        self.beta = beta
        self.matching = matching
        self.factor = factor
        self.numerical_eps = numerical_eps
        self.blocks = len(S)
        check_recipe(self.D, self.Q, S, initial_variance)
        check_schedule(beta)
        inverse = torch.linalg.inv(self.S)
        self.rate = (self.D + self.Q) @ inverse
        """(D + Q) S⁻¹: the drift is −β(t) · rate · z."""
        check_convergence(self.rate, float(beta.integral(self.T)))
        self._forward = LinearKernel(self.rate, self.D)
        self._reversed = LinearKernel((self.D - self.Q) @ inverse, self.D)
        self.predicted = self._predicted_blocks()
        left = float(self.image_mean(self.T).norm())
        found = f"process: {left:.2g} of the image remains at its final time"
        if left < LEAST_LEFT:
            raise UserError(
                f"{found}, too little for float32, which needs {LEAST_LEFT}; lower β (beta_min, "
                "beta_max) or the entries of (D + Q) S⁻¹ (for PSLD, gamma and mass_inverse)"
            )
        if not left <= MOST_LEFT:
            raise UserError(
                f"{found}, but samplers start from N(0, S), which allows {MOST_LEFT}; raise β "
                "(beta_min, beta_max)"
            )

    def __repr__(self) -> str:
        D, Q, S = self.D.tolist(), self.Q.tolist(), self.S.diagonal().tolist()
        how = f"{self.beta}, {self.matching}, {self.factor} factor"
        return f"<{type(self).__name__}: D = {D}, Q = {Q}, S = {S}, {how}>"

    def build(self) -> "LinearProcess":
        """Return the process itself, so that a process can be passed in place of its settings."""
        return self

    def _predicted_blocks(self) -> slice:
        """Return the blocks of ε that the network predicts.

        A block without noise (D_ii = 0) needs no score. L⁻ᵀ is triangular, so noise-free blocks
        need no prediction if they come first (lower factor) or last (upper factor). CLD (Γ = 0)
        with the lower factor therefore predicts only the noise of the momentum.
        """
        noisy = torch.nonzero(torch.diagonal(self.D)).flatten().tolist()
        if self.factor == "lower":
            return slice(noisy[0], self.blocks)
        return slice(0, noisy[-1] + 1)

    @property
    def predicted_blocks(self) -> int:
        """The number p of blocks of ε that the network predicts."""
        return self.predicted.stop - self.predicted.start

    @property
    def needs_auxiliary_noise(self) -> bool:
        """True if `perturb` needs draws of the auxiliary blocks of z₀ (DSM)."""
        return self.matching == "dsm" and self.blocks > 1

    # -- perturbation kernel --------------------------------------------------------------------

    def transition(self, t: Times) -> Tensor:
        """Return Φ(t), N×k×k, the transition matrix of the drift from time 0 to t."""
        return self._forward.transition(self.beta.integral(t))

    def transition_between(self, start: Times, end: Times) -> Tensor:
        """Return the transition matrices of the drift, N×k×k, from each time in `start` to the
        corresponding time in `end`.

        `end` may be before `start`.
        """
        return self._forward.transition(self.beta.integral(end) - self.beta.integral(start))

    def covariance(self, t: Times) -> Tensor:
        """Return Σ(t), N×k×k, of p(z_t | x₀) under HSM or of p(z_t | z₀) under DSM."""
        if self.matching == "hsm":
            return self.image_covariance(t)
        return self._regularized(self._forward.moments(self.beta.integral(t))[1])

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
        """Return −L⁻ᵀ, N×k×p: from the p predicted blocks of ε to the score (paper, Eq. 9).

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
        """Return z_T ~ N(0, S) from standard normal noise of the same shape."""
        return mix(self.S.sqrt(), noise)

    # -- the kernel given the image, under HSM and DSM -------------------------------------------

    def image_mean(self, t: Times) -> Tensor:
        """Return a(t) = Φ(t) e_x, N×k: E[z_t | x₀] = a x₀."""
        return self.transition(t)[..., 0]

    def image_covariance(self, t: Times) -> Tensor:
        """Return Σ(t) = Φ Σ₀ Φᵀ + C, N×k×k, the covariance of p(z_t | x₀); C comes from the noise.

        Under HSM, this matrix equals `covariance`. Under DSM, it differs: the auxiliary blocks of
        z₀ are marginalized here, but known in `covariance`. Every entry of both terms is exact up
        to a few roundings, however small t is.
        """
        phi, noise = self._forward.moments(self.beta.integral(t))
        return self._regularized(phi @ self.initial_covariance @ phi.mT + noise)

    def image_factor(self, t: Times) -> Tensor:
        """Return the triangular factor L(t) of `image_covariance`, N×k×k, with L Lᵀ = Σ."""
        return self._factorize(self.image_covariance(t))

    def whitened_mean(self, t: Times) -> Tensor:
        """Return c(t) = L⁻¹ a, N×k: given x₀, L⁻¹ z_t ~ N(c x₀, I)."""
        a = self.image_mean(t)[..., None]
        return torch.linalg.solve(self.image_factor(t), a)[..., 0]

    def precision(self, t: Times) -> Tensor:
        """Return ρ(t) = aᵀ Σ⁻¹ a, N.

        The sufficient statistic of z_t for x₀ is y = aᵀ Σ⁻¹ z_t / ρ = x₀ + N(0, 1/ρ).
        """
        return self.whitened_mean(t).square().sum(dim=-1)

    def noise_level(self, t: Times) -> Tensor:
        """Return the noise level σ_eff(t) = ρ^(−½), N, in units of the image."""
        return self.precision(t).rsqrt()

    def log_snr(self, t: Times) -> Tensor:
        """Return λ(t) = −log σ_eff, N: half the log signal-to-noise ratio; it decreases with t."""
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
        """Return −β(t) (D + Q) S⁻¹, N×k×k."""
        return -self.beta(t)[..., None, None] * self.rate

    def diffusion_squared(self, t: Times) -> Tensor:
        """Return G Gᵀ = 2 β(t) D, N×k×k.

        In reverse time, the drift of the reverse SDE (paper, Eq. 11) is −drift·z + G Gᵀ·score, and
        the drift of the probability-flow ODE is −drift·z + ½ G Gᵀ·score.
        """
        return 2 * self.beta(t)[..., None, None] * self.D

    def diffusion(self, t: Times) -> Tensor:
        """Return G(t), N×k×k, the symmetric root of 2 β(t) D."""
        return (2 * self.beta(t))[..., None, None].sqrt() * semidefinite_root(self.D)

    def reverse_linear_step(self, start: Times, end: Times) -> tuple[Tensor, Tensor]:
        """Solve the linear part of SSCS exactly from forward time `start` down to `end` < `start`.

        In reverse time s, the linear part of the symmetric splitting CLD sampler (SSCS; paper,
        Eq. 12) is dz = −β (D − Q) S⁻¹ z ds + √(2 β D) dw. This is the forward process with −Q in
        place of Q, started at a known state.

        Returns:
            (Φ, L), both N×k×k: z ← Φ z + L ξ with ξ standard normal.
        """
        elapsed = self.beta.integral(start) - self.beta.integral(end)
        phi, covariance = self._reversed.moments(elapsed)
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
