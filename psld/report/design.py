"""A process before training, as text and as a figure: kernel, noise levels, condition."""

import math
from itertools import pairwise

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from psld.diffusion.process import LinearProcess
from psld.diffusion.time_grid import time_of_noise_level
from psld.report.style import COLORS, LINE_WIDTH, PAGE_WIDTH

LEVELS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""The noise levels σ_eff between which the shares of time are given."""

FIRST_TIME = 1e-4
"""The earliest time of the figure."""


def description(title: str, process: LinearProcess) -> str:
    """Return the matrices of a process, its modes, and what the network predicts."""
    last = float(process.noise_level(torch.tensor([process.T], dtype=torch.float64)))
    lines = [
        f"{title}: the recipe's conditions hold",
        *matrices(process),
        f"modes of the drift (D + Q) S⁻¹: {modes(process)}",
        f"the network predicts {process.predicted_blocks} of {process.blocks} blocks of ε",
        f"at t = 1 an image has noise of {last:.3g} times its own units",
    ]
    return "\n".join(lines)


def matrices(process: LinearProcess) -> list[str]:
    """Return the matrices of the SDE dz = F z dt + G dw and of its recipe, one a line."""
    one = torch.ones(1, dtype=torch.float64)
    named = {
        "D": process.D,
        "Q": process.Q,
        "S": process.S,
        "Σ₀": process.initial_covariance,
        "F/β = −(D + Q) S⁻¹": -process.rate,
        "G/√β = √(2D)": process.diffusion(one)[0] / process.beta(one).sqrt(),
        "Φ(1) = exp(∫₀¹ F dt)": process.transition(one)[0],
    }
    lines = []
    for name, matrix in named.items():
        rows = (f"[{', '.join(f'{v + 0:.4g}' for v in row)}]" for row in matrix.tolist())
        lines.append(f"{name} = [{', '.join(rows)}]")
    return lines


def modes(process: LinearProcess) -> str:
    """Return the eigenvalues of the drift and what they mean for its motion."""
    values = torch.linalg.eigvals(process.rate)
    spread, size = float((values - values.mean()).abs().max()), float(values.abs().max())
    # Equal eigenvalues of k×k matrices are computed to about ε^(1/k).
    if process.blocks == 1:
        kind = "decay"
    elif spread < 1e-4 * size:
        kind = "critically damped"
    elif float(values.imag.abs().max()) > 1e-4 * size:
        kind = "underdamped: it oscillates"
    else:
        kind = "overdamped"
    ordered = sorted(values.tolist(), key=lambda value: (value.real, value.imag))
    texts = (f"{v:.3g}" if abs(v.imag) > 1e-4 * size else f"{v.real:.3g}" for v in ordered)
    return f"{', '.join(texts)} ({kind})"


def level_names() -> list[str]:
    between = [f"{low:g} to {high:g}" for low, high in pairwise(LEVELS)]
    return [f"below {LEVELS[0]:g}", *between, f"above {LEVELS[-1]:g}"]


def shares(process: LinearProcess) -> list[float]:
    """Return the share of time between each of the LEVELS, and below and above them.

    Training draws times uniformly, so this is also the share of training.
    """
    ends = process.noise_level(torch.tensor([1e-5, process.T], dtype=torch.float64))
    levels = torch.tensor(LEVELS, dtype=torch.float64).clamp(*ends.tolist())
    times = time_of_noise_level(process, torch.cat([ends[:1], levels, ends[1:]]), 1e-5)
    return times.diff().tolist()


def draw_design(title: str, process: LinearProcess) -> Figure:
    """Draw a process: means, deviations, noise levels, shares of time, and condition."""
    times = torch.logspace(math.log10(FIRST_TIME), 0, 200, dtype=torch.float64)
    covariance = process.image_covariance(times)
    figure = Figure(figsize=(PAGE_WIDTH, 6.2), layout="constrained")
    figure.suptitle(title, parse_math=False)
    means, deviations, levels, spent, condition, legend = figure.subplots(2, 3).flat
    scale = process.S.diagonal().sqrt()
    _draw_blocks(means, process, times, process.image_mean(times) / scale)
    means.set(title="what is left of the image", ylabel="mean a / √S")
    legend.axis("off")
    legend.legend(*means.get_legend_handles_labels(), loc="center")
    noise = covariance.diagonal(dim1=1, dim2=2).sqrt() / scale
    _draw_blocks(deviations, process, times, noise)
    deviations.set(title="noise of each block", ylabel="deviation √Σ / √S", yscale="log")
    levels.plot(times, process.noise_level(times), color=COLORS[0], linewidth=LINE_WIDTH)
    levels.set(title="noise on the image", xscale="log", yscale="log")
    levels.set(xlabel="time t", ylabel="σ_eff")
    parts = shares(process)
    spent.barh(range(len(parts)), parts, color=COLORS[0])
    spent.set_yticks(range(len(parts)), level_names())
    spent.set(title="share of the time by σ_eff", xlabel="share")
    condition.plot(times, torch.linalg.cond(covariance), color=COLORS[0], linewidth=LINE_WIDTH)
    condition.set(title="condition number of Σ", xscale="log", yscale="log", xlabel="time t")
    return figure


def _draw_blocks(
    axes: Axes, process: LinearProcess, times: torch.Tensor, values: torch.Tensor
) -> None:
    names = ["image", "momentum", *(f"block {n}" for n in range(2, process.blocks))]
    for name, color, line in zip(names, COLORS, values.mT, strict=False):
        axes.plot(times, line, label=name, color=color, linewidth=LINE_WIDTH)
    axes.set(xlabel="time t", xscale="log")
