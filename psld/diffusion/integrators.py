"""The interface of integrators of the reverse process, and the paper's integrators.

Every step is linear in the state z, the score s and standard normal noise ξ, with k×k matrices:
z ← P z + W s + N ξ. An integrator computes these matrices once for its time grid, in float64 on
the CPU, and applies them in float32 on the device. `ProbabilityFlow` alone has no time grid:
`integrate` chooses its steps by their error.
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
"""Function that draws standard normal noise in the shape of a given state. To the step of a sampler
it gives that of the whole state, whatever it is called with."""


class Integrator(Protocol):
    """An integrator from T = 1 toward the data, in len(times) steps.

    One of the probability-flow ODE says `ode = True`: then the denoising step is the ODE's, too.
    """

    times: list[float]
    """Forward times at which the steps start."""
    ends: list[float]
    """Forward times at which the steps end. If the last step ends at 0, it has reached the data;
    otherwise the loop adds the denoising step."""
    draws: int
    """How often the steps, all together, draw noise."""

    @property
    def replacement_times(self) -> list[float] | None:
        """For inpainting: the time whose noise the known pixels get after each step. None if the
        integrator handles the known pixels itself."""
        ...

    def step(self, index: int, z: Tensor, score: Score, noise: Noise) -> Tensor:
        """Take step `index` from `z`. Steps are taken in order; step 0 starts a new sample."""
        ...


class Sampler(Protocol):
    """What the sampling loop needs of a sampler's settings (`psld.diffusion.samplers`)."""

    @property
    def denoise(self) -> bool:
        """True if one more evaluation at the last time takes the samples to time 0."""
        ...

    def build(
        self, process: LinearProcess, device: torch.device, inpainting: "Inpainting | None" = None
    ) -> Integrator:
        """Build the integrator. Raises UserError if it does not suit the process or inpainting."""
        ...


class Inpainting:
    """Keep the pixels with mask 1; the sampler fills in the rest.

    After each step, position and momentum of the known pixels are drawn again from the kernel
    N(a x₀, Σ) given the image. EM and SSCS do so at the time at which the step started, which is
    the official sampler's rule, and gDDIM and conjugate integrators at the time that it reached.
    The paper derives imputation from Eq. 13 with the observed part as the condition.

    A sampler that predicts the image needs no new noise: the known pixels are put into its
    prediction, and each step then takes a known pixel from one draw of the kernel to another.
    """

    def __init__(self, process: LinearProcess, images: Tensor, mask: Tensor) -> None:
        """
        Args:
            images: N×C×H×W in [−1, 1]; pixels with mask 0 are ignored.
            mask: N×1×H×W, 1 for a known pixel, else 0.

        Raises UserError for other values.
        """
        if not (images.abs() <= 1).all():
            raise UserError("inpainting: the images must be in [−1, 1]; of bytes, x / 127.5 - 1")
        if not ((mask == 0) | (mask == 1)).all():
            raise UserError(
                "inpainting: the mask must be 1 for a known pixel, else 0; of bytes, x > 127"
            )
        self.process = process
        self.images = images
        self.mask = mask.to(images)

    def combine(self, generated: Tensor, known: Tensor) -> Tensor:
        """Take pixels with mask 1 from `known`, the others from `generated`: images or states."""
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

        With `probability_flow` the steps are Euler's on the probability-flow ODE: the score has
        half its weight, and the noise none.
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
        """Take the step without its noise. The last step of a sampler is such a step."""
        s = score(z, self.times[index]).mix(self.score_matrix[index])
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
        self.draws = 2 * len(self.ends)
        self.score_matrix = table(process.score_matrix(start), device)
        self.weight = table(weight, device)
        self.state = table(identity + weight @ torch.linalg.inv(process.S), device)
        self.halves = [
            tuple(table(matrix, device) for matrix in process.reverse_linear_step(first, last))
            for first, last in ((start, middle), (middle, end))
        ]

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

    The step size is common to the whole shard, so an image does not depend on the batch size. The
    state is float64; the network receives it in the type of the start.
    """

    times = replacement_times = [1.0]  # one step: the whole adaptive integration
    draws = 0
    ode = True

    def __init__(self, process: LinearProcess, final_time: float, tolerance: float) -> None:
        self.process = process
        self.ends = [final_time]
        self.tolerance = tolerance

    def step(self, index: int, z: Tensor, score: Score, noise: Noise) -> Tensor:
        def velocity(t: float, exact: Tensor) -> Tensor:
            state = exact.to(z.dtype).to(z.device)
            half = 0.5 * self.process.diffusion_squared(t)[0]
            push = mix(half, score(state, t).mix(self.process.score_matrix(t)[0]))
            return mix(self.process.drift(t)[0], state) - push

        end = integrate(velocity, self.process.T, self.ends[0], z, self.tolerance, "rk45")
        return end.to(z.dtype).to(z.device)


Velocity = Callable[[float, Tensor], Tensor]
"""Function (t, y) → dy/dt, of the shape of y, on any device. The state y is float64 on the CPU."""


@all_bits()  # the step control would follow the rounding of TF32
@torch.no_grad()
def integrate(
    velocity: Velocity, start: float, end: float, y: Tensor, tolerance: float, name: str
) -> Tensor:
    """Solve dy/dt = velocity(t, y) from `y` at `start` to `end`, in either direction of time.

    SciPy's RK45 computes the steps on the CPU. The root mean square of the error, in units of
    tolerance · (1 + |y|), stays below 1.

    Args:
        y: of any shape, on any device.
        tolerance: relative and absolute.
        name: the start of error messages.

    Returns:
        The state at `end`, float64 on the CPU.

    Raises:
        RunError: a velocity is not finite, or the step becomes too small.
    """
    from scipy.integrate import RK45  # The import takes a quarter of a second.

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
        raise RunError(f"{name}: at time {solver.t:.4g} no step is small enough for its tolerance")
    return torch.from_numpy(solver.y).view(y.shape)
