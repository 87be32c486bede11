"""The Dormand–Prince 5(4) integrator with SciPy's step control, on the device of the state."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from psld.utils.device import all_bits
from psld.utils.errors import RunError

Velocity = Callable[[float, Tensor], Tensor]
"""Function (t, y) → dy/dt, of the shape and type of y."""

# Dormand and Prince (1980): the times C, weights A and result B of the stages, and the difference E
# between the results of orders 5 and 4. The last stage is the first stage of the next step.
C = (0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1)
A = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
)
B = (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)
E = (-71 / 57600, 0, 71 / 16695, -71 / 1920, 17253 / 339200, -22 / 525, 1 / 40)

# Values of SciPy's RK45.
SAFETY, MIN_FACTOR, MAX_FACTOR, EXPONENT = 0.9, 0.2, 10.0, -1 / 5


@all_bits()  # the step control would follow the rounding of TF32
@torch.no_grad()
def integrate(
    velocity: Velocity, start: float, end: float, y: Tensor, tolerance: float, name: str
) -> Tensor:
    """Solve dy/dt = velocity(t, y) from `y` at `start` to `end`, in either direction of time.

    The steps are those of SciPy's `solve_ivp(method="RK45")`: the root mean square of the error,
    in units of tolerance · (1 + |y|), stays below 1. The host waits for the device twice at the
    start and once per step.

    Args:
        y: float64, of any shape.
        tolerance: relative and absolute.
        name: the start of error messages.

    Raises:
        RunError: a velocity is not finite, or the step becomes too small.
    """
    direction = math.copysign(1.0, end - start)
    relative = max(tolerance, 100 * torch.finfo(torch.float64).eps)
    t, slope = start, velocity(start, y)
    size = _first_step(velocity, start, end, y, slope, tolerance, relative, name)
    while t != end:
        smallest = 10 * abs(math.nextafter(t, direction * math.inf) - t)
        size, rejected = max(size, smallest), False
        while True:
            if size < smallest:
                raise RunError(f"{name}: at time {t:.4g} no step is small enough for its tolerance")
            after = t + direction * size
            if direction * (after - end) > 0:
                after = end
            step = after - t
            times = [*(t + c * step for c in C), after]
            slopes = [slope]
            for time, weights in zip(times[1:-1], A[1:], strict=True):
                slopes.append(velocity(time, _moved(y, step, weights, slopes)))
            moved = _moved(y, step, B, slopes)
            slopes.append(velocity(after, moved))
            scale = tolerance + torch.maximum(y.abs(), moved.abs()) * relative
            error = float(_rms(_moved(torch.zeros_like(y), step, E, slopes) / scale))
            if not math.isfinite(error):
                _check(name, times, slopes)
            factor = SAFETY * error**EXPONENT if error else MAX_FACTOR
            if error < 1:
                break
            size, rejected = abs(step) * max(MIN_FACTOR, factor), True
        size = abs(step) * min(1.0 if rejected else MAX_FACTOR, factor)
        t, y, slope = after, moved, slopes[-1]
    return y


def _first_step(
    velocity: Velocity,
    start: float,
    end: float,
    y: Tensor,
    slope: Tensor,
    tolerance: float,
    relative: float,
    name: str,
) -> float:
    """Choose the first step size (Hairer, Nørsett and Wanner, Solving ODEs I, II.4)."""
    length = abs(end - start)
    scale = tolerance + y.abs() * relative
    d0, d1 = torch.stack([_rms(y / scale), _rms(slope / scale)]).tolist()
    if not math.isfinite(d1):
        _check(name, [start], [slope])
    h0 = 1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1
    step = math.copysign(min(h0, length), end - start)
    after = velocity(start + step, y + step * slope)
    d2 = float(_rms((after - slope) / scale)) / abs(step)
    if not math.isfinite(d2):
        _check(name, [start + step], [after])
    largest = max(d1, d2)
    h1 = max(1e-6, abs(step) * 1e-3) if largest <= 1e-15 else (0.01 / largest) ** -EXPONENT
    return min(100 * abs(step), h1, length)


def _moved(y: Tensor, step: float, weights: Sequence[float], slopes: list[Tensor]) -> Tensor:
    """Return y + step · Σ_i weights_i slopes_i."""
    total = y.clone()
    for weight, slope in zip(weights, slopes, strict=True):
        if weight:
            total.add_(slope, alpha=step * weight)
    return total


def _rms(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x) / math.sqrt(x.numel())


def _check(name: str, times: list[float], slopes: list[Tensor]) -> None:
    """Raise RunError with the first time at which a slope is not finite."""
    for time, slope in zip(times, slopes, strict=True):
        if not torch.isfinite(slope).all():
            raise RunError(f"{name}: the score is NaN or infinite at time {time:.4g}")
