"""The trials of `psld check` for processes and noise schedules.

Everything that a process computes follows from its drift F(t) and G Gᵀ(t). The trials compare its
other methods with solutions by SciPy of the differential equations

    Φ̇ = F Φ,      Ċ = F C + C Fᵀ + G Gᵀ.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from psld.diffusion.process import LinearProcess
from psld.diffusion.roots import WhiteningRoot
from psld.utils.errors import UserError

TIMES = (1e-3, 0.03, 0.3, 0.7, 1.0)
TOLERANCE = 1e-6
"""The largest deviation from the differential equations. A covariance is measured in units of
√(C_ii C_jj), everything else relative to its largest entry."""

PATHS, STEPS = 500, 2000
FAR = 5.0
"""The largest accepted difference between the moments of simulated paths and the moments of the
process, in standard errors."""


def trial_of_process(process: LinearProcess) -> Iterator[str]:
    """Compare the methods of a process with its differential equations.

    Raises UserError that names each method that disagrees, the time and the two values.
    """
    low, high = process.noise_level(torch.tensor([TIMES[0], process.T])).tolist()
    yield (
        f"{process.blocks} blocks, of which the network predicts the noise of "
        f"{process.predicted_blocks}; noise levels from {low:.3g} (t = {TIMES[0]:g}) to {high:.3g}"
    )
    wrong = []
    for name, largest in _worst(process).items():
        error, t, found, expected = largest
        if not error <= TOLERANCE:
            values = f"{_text(found)}, but the differential equation gives {_text(expected)}"
            wrong.append(f"{name} at t = {t:g} is {values} (error {error:.2g})")
    if wrong:
        raise UserError(f"process: {'; '.join(wrong)}")
    yield f"transitions, covariances, scores and roots solve the SDE's equations to {TOLERANCE:g}"
    yield from _simulation(process)


def _worst(process: LinearProcess) -> dict[str, tuple[float, float, Tensor, Tensor]]:
    """Return the largest error of each method, with its time and the found and expected values."""
    worst: dict[str, tuple[float, float, Tensor, Tensor]] = {}

    def compare(name: str, t: float, found: Tensor, expected: Tensor, scale: Any = None) -> None:
        scale = expected.abs().max() if scale is None else scale
        error = float(((found - expected).abs() / scale).max())
        if name not in worst or not error <= worst[name][0]:
            worst[name] = error, t, found, expected

    start, identity = process.initial_covariance, torch.eye(process.blocks, dtype=torch.float64)
    roots = {kind: WhiteningRoot(process, kind, TIMES[0]) for kind in ("flow", "straight")}
    earlier, before = 0.0, identity
    for t, (phi, noise) in zip(TIMES, _solved(process), strict=True):
        compare("transition", t, process.transition(t)[0], phi)
        between = phi @ torch.linalg.inv(before)
        compare("transition_between", t, process.transition_between(earlier, t)[0], between)
        earlier, before = t, phi
        noise = noise + process.numerical_eps * identity
        image = phi @ start @ phi.mT + noise
        known = noise if process.matching == "dsm" else image
        for name, expected in (("image_covariance", image), ("covariance", known)):
            spread = expected.diagonal().sqrt()
            scale = (spread[:, None] * spread).clamp(min=1e-300)
            compare(name, t, getattr(process, name)(t)[0], expected, scale)
        G = process.diffusion(t)[0]
        compare("diffusion", t, G @ G.mT, process.diffusion_squared(t)[0])
        compare("score_matrix", t, *_scores(process, t, phi, known))
        for kind, root in roots.items():
            R = root(torch.tensor([t], dtype=torch.float64))[0]
            compare(f"the {kind} root", t, R @ R.mT, image)
    return worst


def _solved(process: LinearProcess) -> list[tuple[Tensor, Tensor]]:
    """Return Φ and C at `TIMES`, by DOP853."""
    from scipy.integrate import solve_ivp

    k = process.blocks

    def slope(t: float, y: np.ndarray, middle: float) -> np.ndarray:
        # At the ends of an interval, evaluate inside it, because a coefficient may jump there.
        t += 1e-14 * np.sign(middle - t)
        F, P = process.drift(t)[0].numpy(), process.diffusion_squared(t)[0].numpy()
        phi, C = y.reshape(2, k, k)
        return np.stack([F @ phi, F @ C + C @ F.T + P]).ravel()

    y, found = np.stack([np.eye(k), np.zeros((k, k))]).ravel(), {}
    for start, end in pairwise([0.0, *sorted({*TIMES, *process.jumps})]):
        # A first step, because SciPy's guess may jump over the times at which the SDE acts.
        options: Any = {"rtol": 1e-11, "atol": 1e-30, "first_step": (end - start) / 100}
        solution = solve_ivp(slope, (start, end), y, "DOP853", args=((start + end) / 2,), **options)
        y = solution.y[:, -1]
        found[end] = torch.from_numpy(y.reshape(2, k, k)).unbind()
    return [found[t] for t in TIMES]


def _scores(process: LinearProcess, t: float, phi: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scores at three states by `score_matrix`, and by finite differences of log p.

    Only blocks that the network predicts are compared.
    """
    images, k = 3, process.blocks
    generator = torch.Generator().manual_seed(0)
    eps, x0 = (
        torch.randn(images, blocks, 1, 1, dtype=torch.float64, generator=generator)
        for blocks in (k, 1)
    )
    auxiliary = torch.zeros(images, k - 1, 1, 1, dtype=torch.float64)
    z = process.perturb(x0, t, eps, auxiliary)[:, :, 0, 0]
    score = (process.score_matrix(t)[0] @ eps[:, process.predicted, :, 0])[:, :, 0]
    precision, mean = torch.linalg.inv(known), x0[:, :, 0, 0] * phi[:, 0]

    def log_density(z: Tensor) -> Tensor:
        return -0.5 * ((z - mean) @ precision * (z - mean)).sum(dim=1)

    steps = 1e-3 * known.diagonal().sqrt().diag()
    differences = [
        (log_density(z + step) - log_density(z - step)) / (2 * step.sum()) for step in steps
    ]
    noisy = process.diffusion_squared(t)[0].diagonal() > 0
    return score[:, noisy], torch.stack(differences, dim=1)[:, noisy]


def _simulation(process: LinearProcess) -> Iterator[str]:
    """Compare the moments of paths from x₀ = 1, by Euler's method, with those of the process."""
    generator = torch.Generator().manual_seed(0)
    times = torch.linspace(0, process.T, STEPS + 1, dtype=torch.float64)
    middle, dt = (times[:-1] + times[1:]) / 2, process.T / STEPS
    drift, diffusion = process.drift(middle), process.diffusion(middle)
    first, *noise = torch.randn(
        STEPS + 1, process.blocks, PATHS, dtype=torch.float64, generator=generator
    )
    z = process.initial_covariance.sqrt() @ first
    z[0] = 1.0
    for F, G, xi in zip(drift, diffusion, noise, strict=True):
        z = z + dt * F @ z + dt**0.5 * G @ xi
    mean, variance = process.image_mean(process.T)[0], process.image_covariance(process.T)[0]
    variance = variance.diagonal()
    off = torch.stack(
        [
            (z.mean(dim=1) - mean) / (variance / PATHS).sqrt(),
            (z.var(dim=1) / variance - 1) / (2 / PATHS) ** 0.5,
        ]
    )
    found = f"{PATHS} simulated paths end within {float(off.abs().max()):.1f} standard errors"
    if not off.abs().max() <= FAR:
        raise UserError(
            f"process: {found} of its mean {_text(mean)} and variances {_text(variance)}: their "
            f"mean is {_text(z.mean(dim=1))} and their variances are {_text(z.var(dim=1))}"
        )
    yield f"{found} of its mean and variances"


def _text(matrix: Tensor) -> str:
    return str(np.array2string(matrix.numpy(), precision=4, separator=", ")).replace("\n", "")
