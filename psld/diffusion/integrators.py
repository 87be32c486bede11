"""The interface of integrators of the reverse process, and the integrators of the paper.

Every step is linear in the state z, the score s and standard normal noise ξ, with k×k matrices:
z ← P z + W s + N ξ. An integrator computes these matrices once for its time grid, in float64 on
the CPU, and applies them in float32 on the device. Only `ProbabilityFlow` has no time grid:
`integrate` adapts its step size to the error.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from psld.diffusion.matrices import mix, table
from psld.diffusion.process import LinearProcess
from psld.diffusion.score import Score
from psld.utils.device import all_bits
from psld.utils.errors import RunError, UserError

Noise = Callable[[Tensor], Tensor]
"""Function that draws standard normal noise in the shape of its argument. In the steps of
a sampler, the noise has the shape of the complete state, even if the argument has another shape."""


class Integrator(Protocol):
    """An integrator of the reverse process from T = 1 toward the data, in len(times) steps.

    An integrator of the probability-flow ODE sets `ode = True`. The denoising step is then an Euler
    step of this ODE, not of the reverse SDE.
    """

    times: list[float]
    """Forward times at which the steps start."""
    ends: list[float]
    """Forward times at which the steps end. If the last step ends at a time above 0, the sampling
    loop adds the denoising step."""
    draws: int
    """Total number of noise draws in all steps."""

    @property
    def replacement_times(self) -> list[float] | None:
        """For inpainting: the forward times at which the known pixels are replaced, one per step.

        None if the integrator handles the known pixels itself.
        """
        ...

    def step(self, index: int, z: Tensor, score: Score, noise: Noise) -> Tensor:
        """Take step `index` from `z`. Steps are taken in order; step 0 starts a new sample."""
        ...


class Sampler(Protocol):
    """The interface that the sampling loop needs of the settings in `psld.diffusion.samplers`."""

    @property
    def denoise(self) -> bool:
        """True if an additional evaluation at the last time takes the samples to time 0."""
        ...

    def build(
        self, process: LinearProcess, device: torch.device, inpainting: "Inpainting | None" = None
    ) -> Integrator:
        """Build the integrator.

        Raises UserError if the integrator does not support the process or inpainting.
        """
        ...


class Inpainting:
    """Images with known pixels (mask 1); a sampler fills in the other pixels.

    After each step, position and momentum of the known pixels are drawn again from the kernel
    N(a x₀, Σ) given the image. EM and SSCS use the kernel at the start time of the step, as the
    official sampler does; gDDIM and conjugate integrators use the kernel at the end time. The paper
    derives imputation from Eq. 13 with the observed pixels as the condition.

    A sampler that predicts the image needs no new noise for the known pixels. It inserts the known
    pixels into its prediction, so each step maps a known pixel from a draw of the kernel at the
    start time to a draw of the kernel at the end time.
    """

    def __init__(self, process: LinearProcess, images: Tensor, mask: Tensor) -> None:
        """
        Args:
            images: N×C×H×W as networks see them; pixels with mask 0 are ignored.
            mask: N×1×H×W, 1 for a known pixel, else 0.

        Raises UserError if the mask has other values.
        """
        if not ((mask == 0) | (mask == 1)).all():
            raise UserError(
                "inpainting: the mask must be 1 for a known pixel, else 0; for bytes, x > 127"
            )
        self.process = process
        self.images = images
        self.mask = mask.to(images)

    def combine(self, generated: Tensor, known: Tensor) -> Tensor:
        """Return known pixels from `known` and the other pixels from `generated`."""
        return generated * (1 - self.mask) + known.to(generated) * self.mask


class EulerMaruyama:
    """Euler–Maruyama on the reverse SDE (paper, Eq. 11):

    z ← z + δ (−A z + G Gᵀ s) + √δ G ξ,   A = drift(t), G = diffusion(t), δ = t_i − t_{i+1}.
    """

    def __init__(
        self,
        process: LinearProcess,
        grid: Tensor,
        device: torch.device,
        probability_flow: bool = False,
    ) -> None:
        """Tabulate the steps between the descending forward times of `grid`.

        With `probability_flow`, the steps are Euler steps of the probability-flow ODE: the weight
        of the score is halved, and no noise is added.
        """
        start, delta = grid[:-1], (grid[:-1] - grid[1:])[:, None, None]
        share, noise = (0.5, 0.0) if probability_flow else (1.0, 1.0)
        identity = torch.eye(process.blocks, dtype=torch.float64)
        self.times = self.replacement_times = start.tolist()
        self.ends = grid[1:].tolist()
        self.draws = len(self.ends)
        self.score_matrix = table(process.score_matrix(start), device)
        self.state = table(identity - delta * process.drift(start), device)
        self.weight = table(share * delta * process.diffusion_squared(start), device)
        self.noise = table(noise * delta.sqrt() * process.diffusion(start), device)

    def mean(self, index: int, z: Tensor, score: Score) -> Tensor:
        """Take a step without noise; the sampling loop uses this as the denoising step."""
        s = score(z, self.times[index]).mix(self.score_matrix[index])
        return mix(self.state[index], z) + mix(self.weight[index], s)

    def step(self, index: int, z: Tensor, score: Score, noise: Noise) -> Tensor:
        return self.mean(index, z, score) + mix(self.noise[index], noise(z))


class SymmetricSplitting:
    """The symmetric splitting CLD sampler (SSCS; paper, Eq. 12).

    A step is an exact half step of the linear part, one Euler step of the score part,
    z ← z + δ · 2βD (S⁻¹ z + s), and another exact half step of the linear part. The score is
    evaluated once per step, at the start time of the step.
    """

    def __init__(self, process: LinearProcess, grid: Tensor, device: torch.device) -> None:
        """Tabulate the steps between the descending forward times of `grid`.

        Raises UserError unless D, Q and S are constant.
        """
        start, end = grid[:-1], grid[1:]
        middle, delta = (start + end) / 2, (start - end)[:, None, None]
        self.halves = [
            tuple(table(matrix, device) for matrix in process.reverse_linear_step(first, last))
            for first, last in ((start, middle), (middle, end))
        ]
        weight = delta * process.diffusion_squared(start)
        identity = torch.eye(process.blocks, dtype=torch.float64)
        self.times = self.replacement_times = start.tolist()
        self.ends = grid[1:].tolist()
        self.draws = 2 * len(self.ends)
        self.score_matrix = table(process.score_matrix(start), device)
        self.weight = table(weight, device)
        self.state = table(identity + weight @ torch.linalg.inv(process.S), device)

    def step(self, index: int, z: Tensor, score: Score, noise: Noise) -> Tensor:
        z = self._linear_half(0, index, z, noise)
        s = score(z, self.times[index]).mix(self.score_matrix[index])
        z = mix(self.state[index], z) + mix(self.weight[index], s)
        return self._linear_half(1, index, z, noise)

    def _linear_half(self, half: int, index: int, z: Tensor, noise: Noise) -> Tensor:
        transition, factor = self.halves[half]
        return mix(transition[index], z) + mix(factor[index], noise(z))


class ProbabilityFlow:
    """SciPy's RK45, Dormand–Prince 5(4), on the probability-flow ODE dz/dt = A z − ½ G Gᵀ s.

    All images of a shard share the step size, so an image does not depend on the batch size. The
    state is float64; the network receives the state in the type of the initial state.
    """

    draws = 0
    ode = True

    def __init__(self, process: LinearProcess, final_time: float, tolerance: float) -> None:
        self.process = process
        # A single step is the complete adaptive integration.
        self.times = self.replacement_times = [process.T]
        self.ends = [final_time]
        self.tolerance = tolerance

    def step(self, index: int, z: Tensor, score: Score, noise: Noise) -> Tensor:
        return self._solve(z, score, self.process.T, self.ends[0])

    def encode(self, z: Tensor, score: Score) -> Tensor:
        """Solve the ODE in the other direction, from the final time of the sampler up to T."""
        return self._solve(z, score, self.ends[0], self.process.T)

    def _solve(self, z: Tensor, score: Score, start: float, end: float) -> Tensor:
        def velocity(t: float, exact: Tensor) -> Tensor:
            state = exact.to(z.dtype).to(z.device)
            half = 0.5 * self.process.diffusion_squared(t)[0]
            push = mix(half, score(state, t).mix(self.process.score_matrix(t)[0]))
            return mix(self.process.drift(t)[0], state) - push

        found = integrate(velocity, start, end, z, self.tolerance, "rk45")
        return found.to(z.dtype).to(z.device)


Velocity = Callable[[float, Tensor], Tensor]
"""Function (t, y) → dy/dt, in the shape of y, on any device. The state y is float64 on the CPU."""


@all_bits()  # otherwise the step control would react to the rounding of TF32
@torch.no_grad()
def integrate(
    velocity: Velocity, start: float, end: float, y: Tensor, tolerance: float, name: str
) -> Tensor:
    """Solve dy/dt = velocity(t, y) from `y` at `start` to `end`, in either direction of time.

    SciPy's RK45 computes the steps on the CPU. It keeps the root-mean-square error of each step
    below 1, in units of tolerance · (1 + |y|).

    Args:
        y: the initial state, of any shape, on any device.
        tolerance: relative and absolute error tolerance.
        name: prefix of error messages.

    Returns:
        The state at `end`, float64 on the CPU.

    Raises:
        RunError: a velocity is not finite, or the step size becomes too small.
    """
    from scipy.integrate import RK45  # Import here, because the import takes 0.25 s.

    def slope(t: float, flat: np.ndarray) -> np.ndarray:
        found = velocity(float(t), torch.from_numpy(flat).view(y.shape)).cpu().double().numpy()
        if not np.isfinite(found).all():
            raise RunError(f"{name}: the score is NaN or infinite at time {t:.4g}")
        return found.ravel()

    flat = y.cpu().double().flatten().numpy()
    solver = RK45(slope, start, flat, end, rtol=tolerance, atol=tolerance)
    while solver.status == "running":
        solver.step()
    if solver.status == "failed":
        raise RunError(f"{name}: at time {solver.t:.4g} no step size meets the tolerance; raise it")
    return torch.from_numpy(solver.y).view(y.shape)
