"""Time grids: the forward times that a sampler visits, from T = 1 down to its final time."""

import torch
from torch import Tensor

from psld.diffusion.settings import SDESamplerSettings


def time_grid(settings: SDESamplerSettings) -> Tensor:
    """K + 1 descending forward times, float64, where K is the number of integrator steps.

        uniform:    t_i = ε + (1 − ε) (K − i) / K
        quadratic:  t_i = ε + (1 − ε) ((K − i) / K)²

    with ε the final time. The final denoising step counts among the N steps, so K = N − 1 with it.
    """
    steps = settings.steps - 1 if settings.denoise else settings.steps
    remaining = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    if settings.striding == "quadratic":
        remaining = remaining**2
    return settings.final_time + (1 - settings.final_time) * remaining
