"""A process before training, as text and as a figure: kernel, noise levels, condition."""

import math
from itertools import pairwise

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tabulate import tabulate

from psld.diffusion.process import LinearProcess
from psld.diffusion.time_grid import time_of_noise_level
from psld.report.style import COLORS, LINE_WIDTH, PAGE_WIDTH

SHOWN = (1e-4, 1e-3, 0.01, 0.1, 0.3, 0.5, 0.7, 1.0)
"""The times of the printed table."""

LEVELS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""The noise levels σ_eff between which the shares of time are given."""

FIRST_TIME = 1e-4
"""The earliest time of the figure."""

BLOCKS = ("image", "momentum")


def description(title: str, process: LinearProcess) -> str:
    """Return the properties of a process, its kernel at a few times and its shares of time."""
    names = block_names(process)
    last = float(process.noise_level(torch.tensor([process.T], dtype=torch.float64)))
    lines = [
        f"{title}: the recipe's conditions hold",
        *matrices(process),
        f"modes of the drift (D + Q) S⁻¹: {modes(process)}",
        f"the network predicts {process.predicted_blocks} of {process.blocks} blocks of ε",
        f"at t = 1 an image has noise of {last:.3g} times its own units",
        "",
        "Given the image: mean a, deviation of the noise, noise level σ_eff, λ, condition of Σ",
        _table(kernel_rows(process), ["t", *(f"a {n}" for n in names), *(f"σ {n}" for n in names),
                                    "σ_eff", "λ", "cond Σ"]),
        "",
        "Share of the time, and so of training, by noise level σ_eff",
        _table([[f"{share:.1%}" for share in shares(process)]], level_names()),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _table(rows: list[list[str]], heads: list[str]) -> str:
    sides = ["left"] + ["right"] * (len(heads) - 1)
    return tabulate(rows, heads, tablefmt="pipe", colalign=sides, disable_numparse=True)


def block_names(process: LinearProcess) -> list[str]:
    """Name the blocks: image, momentum, and auxiliary blocks by number."""
    return [*BLOCKS, *(f"block {n}" for n in range(2, process.blocks))][: process.blocks]


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
    rows = {
        name: [[f"{v + 0:.4g}" for v in row] for row in m.tolist()] for name, m in named.items()
    }
    return [
        f"{name} = [{', '.join('[' + ', '.join(row) + ']' for row in matrix)}]"
        for name, matrix in rows.items()
    ]


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


def kernel_rows(process: LinearProcess) -> list[list[str]]:
    """Return a row of numbers for each of the SHOWN times."""
    times = torch.tensor(SHOWN, dtype=torch.float64)
    covariance = process.image_covariance(times)
    columns = [
        times,
        *process.image_mean(times).mT,
        *covariance.diagonal(dim1=1, dim2=2).sqrt().mT,
        process.noise_level(times),
        process.log_snr(times),
        torch.linalg.cond(covariance),
    ]
    return [[f"{value:.3g}" for value in row] for row in torch.stack(columns, dim=1).tolist()]


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
    _draw_levels(levels, times, process.noise_level(times))
    _draw_shares(spent, shares(process))
    condition.plot(times, torch.linalg.cond(covariance), color=COLORS[0], linewidth=LINE_WIDTH)
    condition.set(title="condition number of Σ", xscale="log", yscale="log", xlabel="time t")
    return figure


def _draw_blocks(
    axes: Axes, process: LinearProcess, times: torch.Tensor, values: torch.Tensor
) -> None:
    for name, color, line in zip(block_names(process), COLORS, values.mT, strict=False):
        axes.plot(times, line, label=name, color=color, linewidth=LINE_WIDTH)
    axes.set(xlabel="time t", xscale="log")


def _draw_levels(axes: Axes, times: torch.Tensor, noise_levels: torch.Tensor) -> None:
    axes.plot(times, noise_levels, color=COLORS[0], linewidth=LINE_WIDTH)
    axes.set(title="noise on the image", xlabel="time t", xscale="log", yscale="log")
    axes.set_ylabel("σ_eff")
    other = axes.twinx()
    other.set_ylim(*(-math.log(level) for level in axes.get_ylim()))
    other.set_ylabel("λ = −log σ_eff")
    other.grid(visible=False)


def _draw_shares(axes: Axes, parts: list[float]) -> None:
    axes.barh(range(len(parts)), parts, color=COLORS[0])
    axes.set_yticks(range(len(parts)), level_names())
    axes.set(title="share of the time by σ_eff", xlabel="share")
