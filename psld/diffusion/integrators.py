"""The interface of integrators of the reverse process, and the paper's integrators.

Every step is linear in the state z, the score s and standard normal noise ξ, with k×k matrices:
z ← P z + W s + N ξ. An integrator computes these matrices once for its time grid, in float64 on
the CPU, and applies them in float32 on the device.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from psld.diffusion.matrices import mix, table
from psld.diffusion.process import LinearProcess
from psld.diffusion.runge_kutta import integrate
from psld.diffusion.score import Score

Noise = Callable[[Tensor], Tensor]
"""Function that draws standard normal noise in the shape of a given state."""


class Integrator(Protocol):
    """An integrator from T = 1 toward the data, in len(times) steps."""

    times: list[float]
    """Forward times at which the steps start."""
    ends: list[float]
    """Forward times at which the steps end. If the last step ends at 0, it has reached the data;
    otherwise the loop adds the denoising step."""
    replacement_times: list[float] | None
    """For inpainting: the time whose noise the known pixels get after each step. None if the
    integrator handles the known pixels itself."""

    def step(self, index: int, z: Tensor, score: Score, noise: Noise) -> Tensor:
        """Take step `index` from `z`. Steps are taken in order; step 0 starts a new sample."""
        ...


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

        With `probability_flow` the steps are Euler's on the probability-flow ODE: the score has
        half its weight, and the noise none.
        """
        start, delta = grid[:-1], (grid[:-1] - grid[1:])[:, None, None]
        share, noise = (0.5, 0.0) if probability_flow else (1.0, 1.0)
        identity = torch.eye(process.blocks, dtype=torch.float64)
        self.times = self.replacement_times = start.tolist()
        self.ends = grid[1:].tolist()
        self.score_matrix = table(process.score_matrix(start), device)
        self.state = table(identity - delta * process.drift(start), device)
        self.weight = table(share * delta * process.diffusion_squared(start), device)
        self.noise = table(noise * delta.sqrt() * process.diffusion(start), device)

    def mean(self, index: int, z: Tensor, score: Score) -> Tensor:
        """Take the step without its noise. The last step of a sampler is such a step."""
        s = score(z, self.times[index], self.score_matrix[index])
        return mix(self.state[index], z) + mix(self.weight[index], s)

    def step(self, index: int, z: Tensor, score: Score, noise: Noise) -> Tensor:
        return self.mean(index, z, score) + mix(self.noise[index], noise(z))


class SymmetricSplitting:
    """The symmetric splitting CLD sampler (SSCS; paper, Eq. 12).

    A step is an exact half step of the linear part, one Euler step of the score part,
    z ← z + δ · 2βD (S⁻¹ z + s), and the other half step of the linear part. The score is evaluated
    once per step, at the step's start time.
    """

    def __init__(self, process: LinearProcess, grid: Tensor, device: torch.device) -> None:
        """Tabulate the steps between the descending forward times of `grid`."""
        start, end = grid[:-1], grid[1:]
        middle, delta = (start + end) / 2, (start - end)[:, None, None]
        weight = delta * process.diffusion_squared(start)
        identity = torch.eye(process.blocks, dtype=torch.float64)
        self.times = self.replacement_times = start.tolist()
        self.ends = grid[1:].tolist()
        self.score_matrix = table(process.score_matrix(start), device)
        self.weight = table(weight, device)
        self.state = table(identity + weight @ torch.linalg.inv(process.S), device)
        self.halves = [
            tuple(table(matrix, device) for matrix in process.reverse_linear_step(first, last))
            for first, last in ((start, middle), (middle, end))
        ]

    def step(self, index: int, z: Tensor, score: Score, noise: Noise) -> Tensor:
        z = self._linear_half(0, index, z, noise)
        s = score(z, self.times[index], self.score_matrix[index])
        z = mix(self.state[index], z) + mix(self.weight[index], s)
        return self._linear_half(1, index, z, noise)

    def _linear_half(self, half: int, index: int, z: Tensor, noise: Noise) -> Tensor:
        transition, factor = self.halves[half]
        return mix(transition[index], z) + mix(factor[index], noise(z))


class ProbabilityFlow:
    """Dormand–Prince 5(4), as in SciPy's RK45, on the probability-flow ODE dz/dt = A z − ½ G Gᵀ s.

    The step size is common to the whole shard, so an image does not depend on the batch size. The
    state is float64; the network receives it in the type of the start.
    """

    times = replacement_times = [1.0]  # one step: the whole adaptive integration

    def __init__(self, process: LinearProcess, final_time: float, tolerance: float) -> None:
        self.process = process
        self.ends = [final_time]
        self.tolerance = tolerance

    def step(self, index: int, z: Tensor, score: Score, noise: Noise) -> Tensor:
        def velocity(t: float, exact: Tensor) -> Tensor:
            time, state = torch.tensor([t], dtype=torch.float64), exact.to(z.dtype)
            half = 0.5 * self.process.diffusion_squared(time)[0]
            push = mix(half, score(state, t, self.process.score_matrix(time)[0]))
            return (mix(self.process.drift(time)[0], state) - push).double()

        return integrate(
            velocity, self.process.T, self.ends[0], z.double(), self.tolerance, "rk45"
        ).to(z.dtype)
