"""The schedules with which all processes of the study end at the noise level of the VP-SDE.

    python -m studies.processes.levels            # σ_eff(1), and the settings of the grid
    python -m studies.processes.levels control    # one denoiser, all processes: the same images

The control samples one denoiser with all processes, without noise (η = 0), with polynomials in λ,
and at the same noise levels. Samplers of processes that end at one level then differ only by
rounding.
"""

import math
import sys
from collections.abc import Callable

import torch
from scipy.optimize import brentq

from psld.diffusion.denoiser import SeesImages, every_block
from psld.diffusion.loop import sample
from psld.diffusion.matrices import mix
from psld.diffusion.process import LinearProcess
from psld.diffusion.roots import WhiteningRoot
from psld.diffusion.samplers import MultistepSettings
from psld.diffusion.score import NetworkScore
from psld.diffusion.settings import CosineBeta, PSLDSettings, VPSDESettings
from psld.diffusion.time_grid import time_of_noise_level
from studies.processes.sdes import Friction, SubVP

LEVELS = (2.0, 0.7, 0.2, 0.1)


def psld(gamma: float, beta: float) -> LinearProcess:
    return PSLDSettings(gamma=gamma, beta_min=beta, beta_max=beta).build()


def friction(first: float, last: float, beta: float) -> LinearProcess:
    return Friction(first=first, last=last, beta_min=beta, beta_max=beta).build()


def processes() -> dict[str, LinearProcess]:
    """Return the processes; print the settings that give them the final level of the VP-SDE."""
    vp_sde = VPSDESettings().build()
    target = float(vp_sde.noise_level(1.0))
    found = {"vp-sde": vp_sde, "sub-vp": SubVP().build()}
    for name, process in found.items():
        print(f"{name}: σ_eff(1) = {float(process.noise_level(1.0)):.6g}")

    def solved(name: str, make: Callable[[float], LinearProcess], low: float, high: float) -> None:
        value = brentq(lambda x: math.log(float(make(x).noise_level(1.0)) / target), low, high)
        print(f"{name}: {value:.6g}")
        found[name] = make(value)

    def cosine(left: float) -> LinearProcess:
        return VPSDESettings(beta=CosineBeta(left=left)).build()

    solved("cosine (left)", cosine, 1e-3, 0.05)
    solved("cld (β)", lambda beta: psld(0.0, beta), 5, 12)
    solved("psld, Γ = 0.25 (β)", lambda beta: psld(0.25, beta), 5, 12)
    solved("psld, Γ from 0 to 0.5 (β)", lambda beta: friction(0.0, 0.5, beta), 5, 12)
    solved("psld, Γ from 0.5 to 0 (β)", lambda beta: friction(0.5, 0.0, beta), 5, 12)
    return found


def control() -> None:
    """Print the largest difference between the images of the processes."""
    y, images = LEVELS[0] * torch.randn(64, 1, 8, 8, dtype=torch.float64), {}

    def denoiser(y: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        sigma = sigma.to(y).view(-1, 1, 1, 1)
        return torch.tanh(y / (0.25 + sigma**2))  # any function: all processes use the same one

    few = MultistepSettings(
        **{"striding": "edm", "steps": len(LEVELS), "eta": 0.0, "start": "gaussian"},
        **{"levels": LEVELS, "interpolation": "lambda"},
    )
    for name, each in processes().items():
        process = every_block(each)
        t = time_of_noise_level(process, LEVELS[0], 1e-3)
        rest = torch.randn(64, process.blocks - 1, 8, 8, dtype=torch.float64)
        z = mix(WhiteningRoot(process, "straight", 1e-3)(t)[0], torch.cat([y / LEVELS[0], rest], 1))
        score = NetworkScore(SeesImages(process, denoiser, gives_image=True), 64)
        images[name] = sample(process, few, score, z, lambda z: z, silent=True)[:, :1]
    first = images["vp-sde"]
    largest = max(float((each - first).abs().max()) for each in images.values())
    print(f"largest difference between images: {largest:.1e}")


if __name__ == "__main__":
    control() if sys.argv[1:] == ["control"] else processes()
