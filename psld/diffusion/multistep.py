"""Exponential multistep sampling in whitened coordinates, for any process and few evaluations.

Let R̃ R̃ᵀ = Σ be the covariance given the image, w = R̃⁻¹ z, c = R̃⁻¹ a and x̂₀ = E[x₀ | z]. The SDE

    dw = x̂₀ dc − η² (w − c x̂₀) dλ + √2 η dW_λ          (λ = −log σ_eff grows while sampling)

has the marginals of the forward process for every root R̃ and every η ≥ 0. Proof: given x₀, the
point w = c x₀ + ξ with ξ ~ N(0, I) moves with the velocity ċ x₀. The average of this velocity over
p(x₀ | w) is ċ x̂₀. The terms with η are the average over p(x₀ | w) of an Ornstein–Uhlenbeck process
that leaves N(c x₀, I) invariant.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from psld.diffusion.denoiser import DataPrediction
from psld.diffusion.integrators import Inpainting, Noise
from psld.diffusion.matrices import mix, table
from psld.diffusion.process import LinearProcess
from psld.diffusion.roots import Root, whitening_root
from psld.diffusion.score import Score

Interpolation = Literal["lambda", "t", "sqrt-t"]

NODES = 20
"""Number of Gauss–Legendre nodes in log t per step."""


class ExponentialScheme:
    """The coefficients of one step from t down to s, float64 on the CPU:

        z_s = P z_t + Σ_j X_j x̂₀_j + N ξ,    P = e^(−E) R̃_s R̃_t⁻¹,    N = √(1 − e^(−2E)) R̃_s,
        X_j = R̃_s ∫_t^s e^(−E_u) ℓ_j(u) (dc + η² c dλ),    E_u = ∫_u^s η² dλ,    E = E_t,

    with ℓ_j the Lagrange polynomials through the nodes. P a_t + Σ_j X_j = a_s and
    P Σ_t Pᵀ + N Nᵀ = Σ_s hold for any nodes. If x̂₀ is the true image x₀, a step
    therefore maps the kernel given x₀ at time t to the kernel given x₀ at time s.
    """

    def __init__(
        self,
        process: LinearProcess,
        root: Root,
        final_time: float,
        *,
        eta: float = 0.0,
        eta_interval: tuple[float, float] | None = None,
        interpolation: Interpolation = "t",
    ) -> None:
        """
        Args:
            final_time: the forward time at which the last step ends.
            eta_interval: the lowest and the highest noise level σ_eff at which η acts.
        """
        self.process = process
        self.root = whitening_root(process, root, final_time)
        self.eta = eta
        self.levels = eta_interval or (0.0, torch.inf)
        self.interpolation: Interpolation = interpolation

    def transition(self, start: Tensor, end: Tensor) -> Tensor:
        """Return P, N×k×k, for N steps, each from a time in `start` to the corresponding time in
        `end`."""
        decay = (-self._churn(start, end)).exp()[:, None, None]
        return decay * self.root(end) @ torch.linalg.inv(self.root(start))

    def noise_factor(self, start: Tensor, end: Tensor) -> Tensor:
        """Return the noise factors N, N×k×k, which are 0 for a step without noise."""
        share = -torch.expm1(-2 * self._churn(start, end))
        return share.sqrt()[:, None, None] * self.root(end)

    def weights(self, start: Tensor, end: Tensor, nodes: Tensor) -> Tensor:
        """Return X, N×k×q; `nodes` are the times of the q predictions of each step, N×q."""

        def curve(times: Tensor) -> Tensor:
            c = torch.linalg.solve(self.root(times), self.process.image_mean(times))
            return (-self._churn(times, end[:, None])).exp()[:, :, None] * c

        whitened = polynomial_integrals(self.process, curve, self.interpolation, start, end, nodes)
        return self.root(end) @ whitened

    def _churn(self, start: Tensor, end: Tensor) -> Tensor:
        """Return ∫ η² dλ from `start` to `end`, within the noise levels of `eta_interval`."""
        # Clamp rounding errors below 0, which occur where σ_eff is constant (`numerical_eps`).
        return (self._churned(end) - self._churned(start)).clamp(min=0)

    def _churned(self, t: Tensor) -> Tensor:
        return -(self.eta**2) * self.process.noise_level(t).clamp(*self.levels).log()


class Multistep:
    """The multistep sampler, which applies `ExponentialScheme` to the last `order` predictions.

    The last step returns the prediction at the final time, so a grid of N times takes N
    evaluations. At order 1, the sampler with k = 1 is DDIM; the sampler with the flow root is
    first-order gDDIM if the predicted blocks of ε are consistent. The coefficients P, X, N are
    tabulated once; a step is z ← P z + X [x̂₀ …] + N ξ.

    A step first evaluates x̂₀. The corrector then repeats the previous step with the same noise and
    with the new x̂₀ as an additional node. Inpainting inserts the known pixels into x̂₀. The known
    pixels then follow the kernel exactly, and all past predictions contain their true values.
    """

    replacement_times = None

    def __init__(
        self,
        process: LinearProcess,
        grid: Tensor,
        device: torch.device,
        *,
        order: int,
        corrector: bool,
        denoise: bool,
        inpainting: Inpainting | None = None,
        **options: Any,
    ) -> None:
        """Tabulate the steps between the descending forward times of `grid`.

        Without `denoise`, the result is the noisy state at the last time. `options` are passed to
        `ExponentialScheme`.
        """
        start, end = grid[:-1], grid[1:]
        scheme = ExponentialScheme(process, final_time=float(grid[-1]), **options)
        visited = grid if denoise else start
        self.times = visited.tolist()
        self.ends = [*end.tolist(), 0.0] if denoise else end.tolist()
        self.order = order
        self.inpainting = inpainting
        self.predict = DataPrediction(process, visited, device)
        self.transition = table(scheme.transition(start, end), device)
        noise = scheme.noise_factor(start, end)
        self.noisy = noise.abs().amax(dim=(1, 2)).gt(0).tolist()
        self.draws = sum(self.noisy)
        self.noise = table(noise, device)
        self.weights = step_weights(scheme.weights, grid, order, device)
        self.corrected = None
        if corrector:
            self.corrected = step_weights(scheme.weights, grid, order, device, ahead=1)
        self.steps = len(end)
        self.history: list[Tensor] = []
        """The latest predictions, newest first."""
        self.base: Tensor
        """P z + N ξ of the last step, which the corrector reuses."""

    def step(self, index: int, z: Tensor, score: Score, noise: Noise) -> Tensor:
        data = self.predict(index, z, score)
        if self.inpainting:
            data = self.inpainting.combine(data, self.inpainting.images)
        if index == self.steps:
            return torch.cat([data, z[:, data.shape[1] :]], dim=1)
        earlier = self.history if index > 0 else []
        self.history = [data, *earlier][: self.order + 1]
        if self.corrected and index > 0:
            z = self.base + self._combined(self.corrected[index - 1])
        self.base = mix(self.transition[index], z)
        if self.noisy[index]:
            self.base = self.base + mix(self.noise[index], noise(z))
        return self.base + self._combined(self.weights[index])

    def _combined(self, weights: Tensor) -> Tensor:
        """Return Σ_j X_j x̂₀_j, N×kC×H×W, over the newest predictions, one for each column of X."""
        return mix(weights, torch.cat(self.history[: weights.shape[1]], dim=1))


# -- integrals of the interpolating polynomials ---------------------------------------------------


def gauss_log_times(
    start: Tensor, end: Tensor, jumps: Sequence[float] = ()
) -> tuple[Tensor, Tensor]:
    """Return times u in [start, end], N×n, and weights w, N×n, with Σ w f(u) ≈ ∫_start^end f dt.

    The quadrature is split at the jumps of f. The jumps are additional nodes with weight 0.
    """
    x, weights = (torch.from_numpy(array) for array in np.polynomial.legendre.leggauss(NODES))
    inner = (start.new_tensor(t).clamp(end, start) for t in sorted(jumps, reverse=True))
    nodes, node_weights = [], []
    for first, last in pairwise([start, *inner, end]):
        if nodes:
            nodes.append(first[:, None])
            node_weights.append(torch.zeros_like(first[:, None]))
        span = (last / first).log()[:, None]
        nodes.append(first[:, None] * (span * (1 + x) / 2).exp())
        node_weights.append(span * nodes[-1] * weights / 2)
    return torch.cat(nodes, dim=1), torch.cat(node_weights, dim=1)


def lagrange(nodes: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return ℓ_j(x) and ℓ_j'(x), both N×m×q; ℓ_j is 1 at node j and 0 at the other nodes.

    Args:
        nodes: N×q, all different.
        x: N×m.
    """
    values, slopes = [], []
    for j in range(nodes.shape[1]):
        value, slope = torch.ones_like(x), torch.zeros_like(x)
        for i in range(nodes.shape[1]):
            if i == j:
                continue
            distance = (nodes[:, j] - nodes[:, i])[:, None]
            factor = (x - nodes[:, i, None]) / distance
            value, slope = value * factor, slope * factor + value / distance
        values.append(value)
        slopes.append(slope)
    return torch.stack(values, dim=2), torch.stack(slopes, dim=2)


def polynomial_integrals(
    process: LinearProcess,
    curve: Callable[[Tensor], Tensor],
    interpolation: Interpolation,
    start: Tensor,
    end: Tensor,
    nodes: Tensor,
) -> Tensor:
    """Return ∫_start^end ℓ_j dY, N×d×q, with Lagrange polynomials ℓ_j in τ = λ, t or √t.

    Integration by parts, [Y ℓ_j] − ∫ Y dℓ_j, needs no derivative of Y. The ℓ_j sum to 1, so the
    integrals sum to Y(end) − Y(start) up to rounding.

    Args:
        curve: Y, a function that maps N×m times to N×m×d.
        start, end: N times.
        nodes: N×q times.
    """
    u, weights = gauss_log_times(start, end, process.jumps)
    times = torch.cat([start[:, None], u, end[:, None]], dim=1)
    y = curve(times)
    at, rate = _abscissa(process, times, interpolation)
    values, slopes = lagrange(_abscissa(process, nodes, interpolation)[0], at)
    inside = y[:, 1:-1].mT @ ((weights * rate[:, 1:-1])[:, :, None] * slopes[:, 1:-1])
    last = y[:, -1, :, None] * values[:, -1, None]
    first = y[:, 0, :, None] * values[:, 0, None]
    return last - first - inside


def step_weights(
    weights: Callable[[Tensor, Tensor, Tensor], Tensor],
    grid: Tensor,
    order: int,
    device: torch.device,
    *,
    ahead: int = 0,
) -> list[Tensor]:
    """Return the weights of each step of a multistep method on a time grid, k×q for each step.

    The nodes of a step are its start time and the `order` − 1 earlier grid times. With `ahead` = 1,
    the end time is a node, too. The first steps have fewer nodes.

    Args:
        weights: function that maps N starts, N ends and N×q nodes to N×k×q.
    """
    steps = len(grid) - 1
    matrices = []
    for first, last in pairwise([*range(min(order, steps)), steps]):
        index = torch.arange(first, last)[:, None]
        nodes = grid[index - torch.arange(-ahead, min(first + 1, order))]
        matrices += weights(grid[first:last], grid[first + 1 : last + 1], nodes).unbind()
    return [table(matrix, device) for matrix in matrices]


def _abscissa(
    process: LinearProcess, t: Tensor, interpolation: Interpolation
) -> tuple[Tensor, Tensor]:
    """Return τ and dτ/dt at times of any shape."""
    match interpolation:
        case "t":
            return t, torch.ones_like(t)
        case "sqrt-t":
            return t.sqrt(), 0.5 * t.rsqrt()
        case "lambda":
            return process.log_snr(t), process.log_snr_rate(t)
