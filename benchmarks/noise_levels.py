"""The error of trained networks by noise level, as far as it is known without a reference.

python -m benchmarks.noise_levels FOLDER [MODEL …]

FOLDER is the folder of `make demo`. For each noise level σ_eff, the benchmark prints two numbers
from 500 training images:

    slope           slope of the regression of x₀ on the prediction x̂₀: 1 for a perfect denoiser
    disagreement    root mean square difference, in units of ε, of the predicted ε and the ε implied
                    by x̂₀: 0 for a perfect network, and always 0 if one block is predicted
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

import psld
from psld.data.pixels import from_uint8
from psld.data.store import ImageStore
from psld.diffusion.data_prediction import consistent_eps, prediction_coefficients
from psld.diffusion.process import mix
from psld.diffusion.time_grid import time_of_noise_level

LEVELS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0)

IMAGES = 500


def main() -> None:
    folder = Path(sys.argv[1])
    images = ImageStore.open(folder / "data" / "digits.h5").images("train")
    x0 = from_uint8(torch.tensor(images))
    print(f"deviation of the pixels: {x0.std():.2f}, from the mean image {spread(x0):.2f}")
    print(f"{'model':10} {'σ_eff':>6} {'slope':>6} {'disagreement':>12}")
    for name in sys.argv[2:] or ["psld-0.02", "psld-0.25", "cld"]:
        model = psld.load(folder / "models" / "demo" / name, device="cpu")
        for level in LEVELS:
            slope, disagreement = errors(model, x0[:IMAGES], level)
            print(f"{name:10} {level:6.2f} {slope:6.3f} {disagreement:12.4f}")


def spread(x0: Tensor) -> Tensor:
    """Return the root mean square deviation of images from their mean image."""
    return (x0 - x0.mean(dim=0)).square().mean().sqrt()


@torch.no_grad()
def errors(model: psld.LoadedModel, x0: Tensor, level: float) -> tuple[float, float]:
    """Return the slope and the disagreement at one noise level."""
    process = model.process
    t = time_of_noise_level(process, torch.tensor([level]), 1e-3)
    noise = torch.randn(
        len(x0), process.blocks, *x0.shape[2:], generator=torch.Generator().manual_seed(0)
    )
    z = mix(process.image_mean(t)[0, :, None], x0) + mix(process.image_factor(t)[0], noise)
    eps = model.network(z, t.float().expand(len(x0)))
    rows = prediction_coefficients(process, t)
    predicted = mix(rows.state[0], z) + mix(rows.eps[0], eps)
    state, data = consistent_eps(process, t)
    implied = mix(state[0], z) - mix(data[0], predicted)
    centered = predicted - predicted.mean(dim=0)
    slope = (centered * (x0 - x0.mean(dim=0))).sum() / centered.square().sum()
    return float(slope), float((eps - implied).square().mean().sqrt())


if __name__ == "__main__":
    main()
