"""Time grids: the forward times that a sampler visits, from T = 1 down to its final time."""

import torch
from torch import Tensor

from psld.diffusion.process import LinearProcess
from psld.diffusion.settings import GridSettings

BISECTIONS = 60
"""Halvings of an interval of log t: the times of a noise level are exact to rounding."""


def time_grid(settings: GridSettings, process: LinearProcess | None = None) -> Tensor:
    """K + 1 descending forward times, float64, where K is the number of integrator steps.

    With ε the final time, T = 1, r_i = (K − i)/K and [x]_i = x(ε) + (x(T) − x(ε)) r_i:

        uniform    t_i = [t]_i
        quadratic  t_i = ε + (1 − ε) r_i²
        power      t_i^(1/p) = [t^(1/p)]_i, gDDIM's grid at p = 2
        lambda     λ(t_i) = [λ]_i, with λ = −log σ_eff
        edm        σ_eff(t_i)^(1/p) = [σ_eff^(1/p)]_i (Karras et al., 2022, Eq. 5)

    The final evaluation counts among the N steps, so K = N − 1 with it. `process` says what σ_eff
    is, so the last two need it.
    """
    steps = settings.steps - 1 if settings.denoise else settings.steps
    remaining = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    final, p = settings.final_time, settings.power
    if settings.striding == "uniform":
        return final + (1 - final) * remaining
    if settings.striding == "quadratic":
        return final + (1 - final) * remaining**2
    if settings.striding == "power":
        return (final ** (1 / p) + (1 - final ** (1 / p)) * remaining) ** p
    if process is None:
        raise ValueError(f"the striding {settings.striding} needs a process")
    low, high = process.noise_level(torch.tensor([final, process.T], dtype=torch.float64)).tolist()
    if settings.striding == "lambda":
        levels = low * (high / low) ** remaining
    else:
        levels = (low ** (1 / p) + (high ** (1 / p) - low ** (1 / p)) * remaining) ** p
    times = time_of_noise_level(process, levels, final)
    times[0], times[-1] = process.T, final
    return times


def time_of_noise_level(process: LinearProcess, levels: Tensor, final_time: float) -> Tensor:
    """The times at which σ_eff has the given values, N, clipped to [`final_time`, T].

    σ_eff grows with time, since noise is only ever added; so bisection in log t finds them.
    """
    low = torch.full_like(levels, final_time, dtype=torch.float64).log()
    high = torch.zeros_like(low)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        below = process.noise_level(middle.exp()) < levels
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return high.exp()
