"""Processes of every kind: k = 1 to 4, HSM and DSM, both factors, full and partial prediction."""

from itertools import product
from pathlib import Path

import torch
import yaml

from psld.config.settings import parse
from psld.diffusion.process import LinearProcess
from psld.diffusion.settings import PSLDSettings, RecipeSettings, VPSDESettings

CONFIGS = Path(__file__).parents[2] / "configs" / "process"


def vp_sde(**choice) -> LinearProcess:
    """The paper's VP-SDE, with some settings changed."""
    return VPSDESettings(kind="vp-sde", **choice).build()


def phase_space(gamma: float, **choice) -> LinearProcess:
    """The paper's PSLD, with some settings changed; CLD for Γ = 0."""
    return PSLDSettings(kind="psld", gamma=gamma, **choice).build()


def recipe(name: str = "third-order", **changes) -> LinearProcess:
    """A process of configs/process, with some settings changed."""
    content = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    return parse(RecipeSettings, content | changes, name).build()


NOISY_POSITION = {
    "D": [[2, 0], [0, 0]],
    "Q": [[0, -0.5], [0.5, 0]],
    "S": [1, 0.25],
    "initial_variance": [0, 0.01],
}
"""Changes of a recipe: critical damping with friction, and so noise, on the position alone."""


def _every_kind() -> dict[str, LinearProcess]:
    kinds = {"vp-sde": vp_sde(), "fourth": recipe("fourth-order")}
    full_third = {"D": [[0.05, 0, 0], [0, 0.05, 0], [0, 0, 0.375]]}
    two_noisy = {
        "lower": {"D": [[0, 0, 0], [0, 0.2, 0], [0, 0, 0.375]]},
        "upper": {"D": [[0.5, 0, 0], [0, 0.375, 0], [0, 0, 0]]},
    }
    for matching, factor in product(("hsm", "dsm"), ("lower", "upper")):
        given = {"matching": matching, "factor": factor}
        label = f"{matching}-{factor}"
        kinds[f"psld-{label}"] = phase_space(0.02, **given)
        kinds[f"cld-{label}"] = phase_space(0.0, **given)
        kinds[f"third-full-{label}"] = recipe(**full_third, **given)
        kinds[f"third-two-{label}"] = recipe(**two_noisy[factor], **given)
        kinds[f"third-{label}"] = recipe(**given)
    return kinds


EVERY_KIND = _every_kind()
"""By name. Partial prediction: cld, third and fourth with the lower factor (one block of two, of
three, of four), third-two (two of three)."""

THREE_ORDERS = {
    "vp-sde": EVERY_KIND["vp-sde"],
    "psld": EVERY_KIND["psld-hsm-lower"],
    "third": EVERY_KIND["third-hsm-lower"],
}
"""One process of each k."""


def times(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
