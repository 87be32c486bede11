"""The paper's processes as instances of the recipe."""

import math

from psld.diffusion.process import Factor, LinearProcess, Matching
from psld.diffusion.schedule import LinearBeta
from psld.diffusion.settings import PSLDSettings, RecipeSettings, VPSDESettings


def vp_sde(beta_min: float = 0.1, beta_max: float = 20.0) -> LinearProcess:
    """The variance-preserving SDE (Song et al., 2021), k = 1: D = ½, Q = 0, S = 1."""
    return LinearProcess(
        D=[[0.5]],
        Q=[[0.0]],
        S=[1.0],
        beta=LinearBeta(beta_min, beta_max),
        initial_variance=[0.0],
    )


def phase_space(
    gamma: float,
    mass_inverse: float = 4.0,
    *,
    beta_min: float = 8.0,
    beta_max: float = 8.0,
    kappa: float = 0.04,
    matching: Matching = "hsm",
    factor: Factor = "lower",
    numerical_eps: float = 1e-9,
) -> LinearProcess:
    """Phase space Langevin diffusion (paper, Eq. 6), k = 2, under critical damping.

        D = ½ diag(Γ, Mν),   Q = ½ [[0, −1], [1, 0]],   S = diag(1, M),   ν = Γ + 2 √M⁻¹

    Γ = 0 is critically damped Langevin diffusion (CLD).
    """
    mass, nu = 1 / mass_inverse, gamma + 2 * math.sqrt(mass_inverse)
    return LinearProcess(
        D=[[gamma / 2, 0.0], [0.0, mass * nu / 2]],
        Q=[[0.0, -0.5], [0.5, 0.0]],
        S=[1.0, mass],
        beta=LinearBeta(beta_min, beta_max),
        initial_variance=[0.0, kappa * mass],
        matching=matching,
        factor=factor,
        numerical_eps=numerical_eps,
    )


def build_process(settings: VPSDESettings | PSLDSettings | RecipeSettings) -> LinearProcess:
    """Build the process that the settings describe."""
    content = settings.model_dump(exclude={"kind"})
    match settings:
        case VPSDESettings():
            return vp_sde(**content)
        case PSLDSettings():
            return phase_space(**content)
        case RecipeSettings():
            beta = LinearBeta(content.pop("beta_min"), content.pop("beta_max"))
            return LinearProcess(beta=beta, **content)
