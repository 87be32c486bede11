"""Time grids: the forward times that a sampler visits, from T = 1 down to its final time."""

from functools import lru_cache

import torch
from torch import Tensor

from psld.diffusion.matrices import as_times
from psld.diffusion.process import LinearProcess
from psld.utils.errors import UserError

TABLE = 256
"""Number of times, evenly spaced in log t, that bracket the solution of `time_of_noise_level`."""

ITERATIONS = 6
"""Number of Newton steps of `time_of_noise_level`.

Each step doubles the number of correct digits.
"""

CONVERGED = 1e-6
"""Newton's method has converged if its last step in log t is below this limit; the error of log t
is then about 1e-12."""

BISECTIONS = 50

KEPT = 64
"""Number of grids in each cache.

Without a cache, computing a grid takes as long as a few evaluations of a small network.
"""


@lru_cache(KEPT)
def time_grid(
    process: LinearProcess,
    striding: str,
    steps: int,
    final_time: float,
    power: float,
    start_level: float | None = None,
    fall: float | None = None,
) -> Tensor:
    """Return K + 1 descending forward times, float64, for K integrator steps.

    T is 1, or the time at which σ_eff equals `start_level`. ε is `final_time`, or the time at which
    σ_eff equals `start_level` / fall^K if that time is later. Let p be the power, r_i = (K − i)/K
    and [x]_i = x(ε) + (x(T) − x(ε)) r_i. The times t_i are

        uniform    t_i = [t]_i
        quadratic  t_i = ε + (T − ε) r_i²
        power      t_i^(1/p) = [t^(1/p)]_i; p = 2 is the grid of gDDIM
        lambda     λ(t_i) = [λ]_i, with λ = −log σ_eff
        edm        σ_eff(t_i)^(1/p) = [σ_eff^(1/p)]_i (Karras et al., 2022, Eq. 5)
    """
    remaining = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    final, p, first = final_time, power, process.T
    if start_level is not None:
        low, high = level_range(process, final)
        if not low < start_level <= high:
            raise UserError(
                f"sampler.start_level: {start_level:g} is outside the noise levels of the process, "
                f"{low:.3g} to {high:.4g}"
            )
        first = float(time_of_noise_level(process, start_level, final))
        if fall:
            final = float(time_of_noise_level(process, start_level * fall**-steps, final))

    def spaced(low: float, high: float) -> Tensor:
        """Return descending numbers from `high` to `low` with evenly spaced p-th roots."""
        return (low ** (1 / p) + (high ** (1 / p) - low ** (1 / p)) * remaining) ** p

    low, high = level_range(process, final, first)
    match striding:
        case "uniform":
            return final + (first - final) * remaining
        case "quadratic":
            return final + (first - final) * remaining**2
        case "power":
            return spaced(final, first)
        case "lambda":
            levels = low * (high / low) ** remaining
        case _:  # edm
            levels = spaced(low, high)
    times = time_of_noise_level(process, levels, final)
    times[-1], times[0] = final, first  # Assign `first` last, for a grid of a single time.
    return times


@lru_cache(KEPT)
def times_of_levels(
    process: LinearProcess, levels: tuple[float, ...], final_time: float, from_prior: bool
) -> Tensor:
    """Return the times of a descending list of noise levels.

    With `from_prior`, the first time is T.

    Raises UserError for levels that the process does not reach between `final_time` and T.
    """
    low, high = level_range(process, final_time)
    if levels[-1] < low / 1.01 or levels[0] > high * 1.01:
        raise UserError(
            f"sampler.levels: {levels[0]:g} to {levels[-1]:g}; the noise levels of the process are "
            f"{high:.4g} to {low:.4g} (sampler.final_time)"
        )
    if from_prior and levels[0] < high / 1.01:
        raise UserError(
            f"sampler.levels: the first level must be {high:.4g}, where start=prior begins; "
            "for a lower first level use start=mixture"
        )
    times = time_of_noise_level(process, as_times(levels), final_time)
    if not (times.diff() < 0).all():
        raise UserError(
            f"sampler.levels: two levels are at least {high:.4g}, or at most {low:.4g}; remove one"
        )
    if from_prior:
        times[0] = process.T
    return times


@lru_cache(KEPT)
def level_range(
    process: LinearProcess, final_time: float, start_time: float | None = None
) -> tuple[float, float]:
    """Return the lowest and the highest noise level: σ_eff at `final_time` and at `start_time`.

    By default, `start_time` is T.
    """
    ends = as_times([final_time, start_time or process.T])
    low, high = process.noise_level(ends)
    return float(low), float(high)


def time_of_noise_level(
    process: LinearProcess, levels: Tensor | float, final_time: float
) -> Tensor:
    """Return the times, N, at which σ_eff has the given values, clipped to [`final_time`, 1].

    σ_eff never decreases with time, because the process only adds noise. A table of noise levels
    gives an interval that contains the solution. Newton's method in log t stays in this interval.
    """
    grid = final_time ** torch.linspace(1, 0, TABLE, dtype=torch.float64)
    target = -as_times(levels).log()
    after = torch.searchsorted(-process.log_snr(grid), -target).clamp(1, TABLE - 1)
    low, high = grid[after - 1].log(), grid[after].log()
    x = before = (low + high) / 2
    for _ in range(ITERATIONS):
        t, before = x.exp(), x
        excess = process.log_snr(t) - target
        x = (x - excess / (t * process.log_snr_rate(t))).clamp(low, high)
    # Where σ_eff is constant (β = 0) or has a kink, Newton's method fails. Bisect there instead.
    if (lost := ~((x - before).abs() < CONVERGED)).any():
        low, high, target = low[lost], high[lost], target[lost]
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            is_late = process.log_snr(middle.exp()) < target
            low, high = torch.where(is_late, low, middle), torch.where(is_late, middle, high)
        x[lost] = high
    return x.exp()
