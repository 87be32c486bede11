"""Conversions between networks of the states z_t and denoisers of the image.

An ε-network gives the predicted image x̂₀ = E[x₀ | z_t] and the denoiser
D(y; σ) = E[x₀ | y = x₀ + σ n]. A denoiser gives the ε of every process.
"""

from collections.abc import Callable, Sequence
from copy import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from psld.diffusion.matrices import mix, predicted_text, table
from psld.diffusion.process import LinearProcess, Times
from psld.diffusion.roots import whitening_root
from psld.diffusion.score import Network, Prediction, Score, at_time
from psld.diffusion.time_grid import level_range, time_of_noise_level
from psld.utils.errors import UserError

CHECKED_TIMES = 512
"""Number of times, evenly spaced in log t, at which `check_prediction` tests a process."""

TABLES = 4096
"""The largest number of times whose coefficients are cached on a device.

The adaptive steps of rk45 visit different times in each batch, so the cache needs a limit.
"""

ROUNDING = 1e-6
"""An upper bound on the relative error of a noise level that is computed from a time."""


class PredictionCoefficients(NamedTuple):
    """The float64 coefficients of x̂₀ = state · z + eps · ε at N times; guidance also uses `score`.

    A network learns E[ε | z]. Under both HSM and DSM, this expectation is linear in x̂₀,

        ε = v − g x̂₀,    v = L_εᵀ Σ⁻¹ z,    g = L_εᵀ Σ⁻¹ a,

    where Σ is the covariance of z given x₀ alone, and L_ε is the factor that defines the ε of the
    network. (Under HSM, L_ε L_εᵀ = Σ, so ε = L⁻¹ z − c x̂₀.) The equations of the predicted blocks,
    with the index p, overdetermine x̂₀. Their least-squares solution is
    x̂₀ = g_pᵀ (v_p − ε_p) / |g_p|².
    """

    state: Tensor
    """g_pᵀ V_p / |g_p|² with v = V z, N×1×k."""
    eps: Tensor
    """−g_pᵀ / |g_p|², N×1×p."""
    score: Tensor
    """aᵀ / ρ, N×1×k: the derivative of x̂₀ = (aᵀ Σ⁻¹ z + aᵀ s) / ρ with respect to the score s."""


def prediction_coefficients(process: LinearProcess, t: Times) -> PredictionCoefficients:
    """Compute the coefficients at N forward times, float64 on the CPU."""
    v, g = consistent_eps(process, t)
    a = process.image_mean(t)[:, :, None]
    g_row = g.mT / g.mT.square().sum(dim=2, keepdim=True)
    precision = process.precision(t)[:, None, None]
    return PredictionCoefficients(state=g_row @ v, eps=-g_row, score=a.mT / precision)


def consistent_eps(process: LinearProcess, t: Times) -> tuple[Tensor, Tensor]:
    """Return (V, g) with ε = V z − g x̂₀ in the predicted blocks, N×p×k and N×p×1."""
    whiten = torch.linalg.inv(process.image_factor(t))
    if process.matching == "dsm":
        whiten = process.covariance_factor(t).mT @ whiten.mT @ whiten
    whiten = whiten[:, process.predicted]
    return whiten, whiten @ process.image_mean(t)[:, :, None]


def check_prediction(process: LinearProcess, final_time: float) -> None:
    """Raise UserError if the predicted ε does not depend on the image at a time in [final_time, T].

    At such a time, g_p passes through 0. The check detects that g_p reverses its direction between
    two checked times.
    """
    grid = final_time ** torch.linspace(0, 1, CHECKED_TIMES, dtype=torch.float64)
    g = consistent_eps(process, grid)[1][:, :, 0]
    turned = (g[1:] * g[:-1]).sum(dim=1) <= 0
    if turned.any():
        size = g.norm(dim=1)
        share = size[:-1] / (size[:-1] + size[1:])  # Interpolate linearly to find the zero.
        zeros = grid[:-1] + share * grid.diff()
        times = ", ".join(f"{t:.3g}" for t in zeros[turned].flip(0).tolist())
        other = "upper" if process.factor == "lower" else "lower"
        raise UserError(
            f"process: the predicted ε does not depend on the image at t = {times}, where its "
            f"coefficient passes through 0; try factor: {other}"
        )


class DataPrediction:
    """Predict the image x̂₀ at the times of a grid from a `Score`, with or without guidance."""

    def __init__(self, process: LinearProcess, times: Tensor, device: torch.device) -> None:
        """Tabulate the coefficients. Raises UserError if `check_prediction` fails."""
        check_prediction(process, float(times.min()))
        self.times = times.tolist()
        rows = prediction_coefficients(process, times)
        self.state, self.eps, self.score = (table(each, device) for each in rows)

    def __call__(self, index: int, z: Tensor, score: Score) -> Tensor:
        """Return x̂₀, N×C×H×W, from z, N×kC×H×W, at time `index` of the grid."""
        from_score = score(z, self.times[index]).mix(self.eps[index], self.score[index])
        return mix(self.state[index], z) + from_score


class Observed:
    """A score that stores its last evaluation; `image` predicts the image from this evaluation."""

    def __init__(self, process: LinearProcess, score: Score) -> None:
        self.process, self.score = process, score
        self._last: tuple[Tensor, float, Prediction] | None = None

    @property
    def evaluations(self) -> int:
        return self.score.evaluations

    def __call__(self, z: Tensor, t: float) -> Prediction:
        found = self.score(z, t)
        self._last = z, t, found
        return found

    def image(self) -> Tensor | None:
        """Return x̂₀ of the last evaluation, N×C×H×W, or None before the first evaluation."""
        if self._last is None:
            return None
        z, t, found = self._last
        rows = prediction_coefficients(self.process, t)
        return mix(rows.state[0], z) + found.mix(rows.eps[0], rows.score[0])


class SeesImages(nn.Module):
    """Wrap a network of noisy images, f(y, σ), as a network of process states, f(z, t).

    A state depends on its image only through y = aᵀ Σ⁻¹ z / ρ, which equals x₀ + σ n with
    σ = ρ^(−½). Therefore a denoiser gives the ε of every process of the recipe, in all k blocks:

        ε = L⁻¹ (z − a D(y; σ))

    If the network is a guide, the wrapper returns the guide's logits.
    """

    def __init__(self, process: LinearProcess, network: Network, *, gives_image: bool) -> None:
        """`gives_image`: True for a denoiser, whose prediction of x₀ is converted to ε."""
        super().__init__()
        self.process = every_block(process)
        self.network, self.gives_image = network, gives_image
        self._tables: dict[tuple[float, torch.device, torch.dtype], list[Tensor]] = {}

    def forward(self, z: Tensor, t: Tensor, *label: Tensor | None) -> Tensor:
        """Evaluate the network at the N times t. If t is on a GPU, this call waits for the GPU."""
        times, index = t.double().cpu().unique(return_inverse=True)
        tables = [each[index.expand(len(z))] for each in self._coefficients(times)]
        return self._evaluate(z, tables, label)

    def at(self, t: float) -> Callable[..., Tensor]:
        """Return the network as a function of states, N×kC×H×W, at one time."""
        return lambda z, *label: self._evaluate(z, self._on_device(t, z.device, z.dtype), label)

    def _on_device(self, t: float, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        if (key := (t, device, dtype)) not in self._tables:  # computed once for all batches
            if len(self._tables) == TABLES:
                self._tables.clear()
            tables = self._coefficients(t)
            self._tables[key] = [each.to(device, dtype, non_blocking=True) for each in tables]
        return self._tables[key]

    def _coefficients(self, t: Times) -> tuple[Tensor, ...]:
        """Return aᵀ Σ⁻¹ / ρ, σ, L⁻¹ and L⁻¹ a at N times, float64."""
        row = prediction_coefficients(self.process, t).state
        return row, self.process.noise_level(t), *consistent_eps(self.process, t)

    def _evaluate(self, z: Tensor, tables: Sequence[Tensor], label: tuple) -> Tensor:
        row, sigma, inverse, c = tables
        levels = sigma.to(z.device, torch.float32, non_blocking=True).expand(len(z))
        y = mix(row, z)
        if not self.gives_image:
            return self.network(*guide_input(y, levels), *label)
        predicted = self.network(y, levels, *label)
        image = (len(z), z.shape[1] // self.process.blocks, *z.shape[2:])
        if not isinstance(predicted, Tensor) or predicted.shape != image:
            raise UserError(f"denoiser: predicts {predicted_text(predicted)} for images of {image}")
        return mix(inverse, z) - mix(c, predicted.to(z.dtype))


def every_block(process: LinearProcess) -> LinearProcess:
    """Return a copy of the process whose networks predict ε = L⁻¹ (z − a x̂₀) in all blocks."""
    process = copy(process)
    process.matching, process.predicted = "hsm", slice(0, process.blocks)
    return process


def check_levels(
    asked: tuple[float, float],
    low: float,
    high: float,
    network: str = "denoiser",
    other: str = "train one with another training.noise_law",
) -> None:
    """Raise UserError if a sampler needs noise levels outside the network's range [low, high].

    Args:
        asked: the smallest and the largest noise level that the sampler needs.
        low, high: the range of the network; deviations within the rounding error are allowed.
        network: the name of the network in the error text.
        other: a remedy, which is appended to the error text.
    """
    smallest, largest = asked
    if smallest < low * (1 - ROUNDING) or largest > high * (1 + ROUNDING):
        raise UserError(
            f"process: its noise levels are {smallest:.3g} to {largest:.3g}, but the {network} "
            f"accepts {low:.3g} to {high:.3g}; change sampler.final_time, sampler.levels or the "
            f"process, or {other}"
        )


def guide_input(y: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Return the inputs of a guide for noisy images: y scaled to unit variance, and σ^(1/4).

    A guide embeds either its second input or the logarithm of this input. σ^(1/4) suits both cases:
    it is of the order of 1, and its logarithm is ln σ / 4.
    """
    return y * (1 + sigma.square()).rsqrt().view(-1, 1, 1, 1), sigma**0.25


class StraightDenoiser:
    """The denoiser D(y; σ) = E[x₀ | y] for y = x₀ + σ n, from an ε-network of any process.

    In straight coordinates z = R̃_t [√ρ y, u] with σ = ρ(t)^(−½), only the first coordinate depends
    on the image. The other k − 1 coordinates, u ~ N(0, I), are independent of the image. They are
    drawn once and kept fixed (`frozen`). A sampler then moves only y, along the variance-exploding
    ODE dy/dσ = (y − D)/σ.

        >>> denoise = StraightDenoiser(process, network, torch.randn(n, (k - 1) * c, h, w))
        >>> y = denoise.sigma_max * torch.randn(n, c, h, w)
        >>> for sigma, after in pairwise(sigmas):          # Euler, from sigma_max down
        ...     y = y + (after - sigma) * (y - denoise(y, sigma)) / sigma

    σ is clipped to [`sigma_min`, `sigma_max`]. The coefficients at σ are computed on the CPU. If σ
    is a tensor on a GPU, a call therefore waits for the GPU; a Python number avoids this wait. The
    network receives float32 states, and the result has the type of y. If parameters of the network
    require gradients, call the denoiser under torch.no_grad() to avoid an autograd graph.

    `round_sigma` and `class_labels` exist because EDM's samplers expect them.
    """

    def __init__(
        self,
        process: LinearProcess,
        network: Network,
        frozen: Tensor,
        final_time: float = 1e-3,
    ) -> None:
        """Raise UserError if a network of `process` cannot predict x₀ at some time.

        Args:
            frozen: u, standard normal, N×(k−1)C×H×W; for k = 1, M×0×H×W with any M.
            final_time: the earliest time at which the network is evaluated.
        """
        check_prediction(process, final_time)
        self.process = process
        self.network = network
        self.frozen = frozen
        self.final_time = final_time
        self.root = whitening_root(process, "straight", final_time)
        self.sigma_min, self.sigma_max = level_range(process, final_time)

    def round_sigma(self, sigma: float | Tensor) -> Tensor:
        """Return σ unchanged: the denoiser accepts continuous noise levels."""
        return torch.as_tensor(sigma)

    def __call__(self, y: Tensor, sigma: float | Tensor, class_labels: None = None) -> Tensor:
        """Predict the images, N×C×H×W. `sigma` is one number, or N numbers."""
        if class_labels is not None:
            raise UserError(
                "denoiser: class_labels must be None; bind the class to the network instead"
            )
        n, auxiliary, *size = self.frozen.shape
        channels = auxiliary // (self.process.blocks - 1) if auxiliary else y.shape[1]
        expected = (n if auxiliary else len(y), channels, *size)
        if y.shape != expected:
            raise UserError(f"denoiser: y has the shape {tuple(y.shape)}; expected {expected}")
        levels, image = torch.as_tensor(sigma).double().cpu().unique(return_inverse=True)
        one_level = len(levels) == 1
        image = torch.tensor(0) if one_level else image.expand(len(y))
        t = time_of_noise_level(self.process, levels, self.final_time)
        scale = self.process.precision(t).sqrt()[image].to(y.device, y.dtype, non_blocking=True)
        scale = scale.view(-1, 1, 1, 1)
        frozen = [self.frozen.to(y)] if auxiliary else []
        z = mix(self.root(t)[image], torch.cat([scale * y, *frozen], dim=1))
        rows = prediction_coefficients(self.process, t)
        if one_level:
            eps = at_time(self.network, float(t))(z.float())
        else:
            times = t[image].to(y.device, torch.float32, non_blocking=True)
            eps = self.network(z.float(), times)
        return mix(rows.state[image], z) + mix(rows.eps[image], self.process.checked(eps, z))
