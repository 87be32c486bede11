"""Processes of every kind: k = 1 to 4, HSM and DSM, both factors, full and partial prediction."""

from pathlib import Path

import torch
import yaml

from psld.config.settings import parse
from psld.diffusion.process import LinearProcess
from psld.diffusion.schedules import IntegratedBeta, LinearBeta
from psld.diffusion.settings import PSLDSettings, RecipeSettings, VPSDESettings

CONFIGS = Path(__file__).parents[2] / "configs" / "process"


def vp_sde(**choice) -> LinearProcess:
    """Return the paper's VP-SDE with changed settings."""
    return parse(VPSDESettings, choice, "vp-sde").build()


def phase_space(gamma: float, **choice) -> LinearProcess:
    """Return the paper's PSLD with changed settings; CLD for Γ = 0."""
    return PSLDSettings(kind="psld", gamma=gamma, **choice).build()


def recipe(name: str = "third-order", **changes) -> LinearProcess:
    """Return a process of configs/process with changed settings."""
    content = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    return parse(RecipeSettings, content | changes, name).build()


NOISY_POSITION = {
    "D": [[2, 0], [0, 0]],
    "Q": [[0, -0.5], [0.5, 0]],
    "S": [1, 0.25],
    "initial_variance": [0, 0.01],
}
"""Settings of a recipe with critical damping, and with friction and noise only on the position."""


def gamma(t):
    """Γ(t) of `varying`."""
    return 0.3 * torch.cos(2 * t) ** 2


def varying(beta=None, **choice) -> LinearProcess:
    """PSLD with friction Γ(t); β(t) jumps at t = 0.4 by default."""
    beta = beta or IntegratedBeta(lambda t: torch.where(t < 0.4, 2.0, 11.0) + t, jumps=[0.4])
    choice = {"initial_variance": [0.0, 0.01], "numerical_eps": 1e-9} | choice

    def noise(t):
        return [[gamma(t) / 2, 0.0], [0.0, (gamma(t) + 4) / 8]]

    return LinearProcess(noise, [[0.0, -0.5], [0.5, 0.0]], [1.0, 0.25], beta, **choice)


def sub_vp() -> LinearProcess:
    """The sub-VP SDE (Song et al., 2021)."""
    beta = LinearBeta(0.1, 20.0)
    return LinearProcess.of_sde(
        lambda t: -0.5 * beta(t), lambda t: -beta(t) * torch.expm1(-2 * beta.integral(t)), [1.0]
    )


EVERY_KIND = {
    "vp-sde": vp_sde(),
    "psld": phase_space(0.02),
    "psld-dsm-upper": phase_space(0.02, matching="dsm", factor="upper"),
    "cld": phase_space(0.0),
    "cld-dsm": phase_space(0.0, matching="dsm"),
    "third": recipe(),
    "third-upper": recipe(D=[[0.5, 0, 0], [0, 0.375, 0], [0, 0, 0]], factor="upper"),
    "fourth": recipe("fourth-order"),
    "varying": varying(),
    "sub-vp": sub_vp(),
    "cosine": vp_sde(beta="cosine"),
}
"""By name. The network predicts one block of two (cld), of three (third) or of four (fourth), or
two of three (third-upper)."""


def times(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
