"""The error of trained networks by noise level, and what their blocks of ε say of the image.

python -m benchmarks.noise_levels FOLDER [MODEL …] [--figure NAME]

FOLDER is the folder of `make demo`. For each noise level σ_eff, the benchmark prints numbers from
the test images:

    slope           slope of the regression of x₀ on the prediction x̂₀: 1 for a perfect denoiser
    disagreement    root mean square difference, in units of ε, of the predicted ε and the ε implied
                    by x̂₀: 0 for a perfect network, and always 0 if one block is predicted
    error           root mean square error of x̂₀, the least-squares estimate from all blocks
    linear          the same error of the best linear estimate, from two moments of the training
                    images: a network with a larger one should not be sampled from this level
    mixture         the same error of the posterior mean of the mixture that `few` starts from
    block 0, 1, …   the same error of the estimate from one block of ε alone

`--figure NAME` draws disagreement, error and blocks as NAME.png and NAME.svg.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import psld
from psld.data.store import ImageStore, from_uint8
from psld.diffusion.denoiser import consistent_eps, prediction_coefficients
from psld.diffusion.gaussian import GaussianData
from psld.diffusion.matrices import mix
from psld.diffusion.time_grid import time_of_noise_level
from psld.training.mixture import with_mixture
from psld.training.settings import Start
from psld.utils.errors import in_one_line
from tests.diffusion.mixture import posterior_mean

LEVELS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0)

BLOCKS = ("position", "momentum")


class Errors(NamedTuple):
    """The errors of a network at one noise level."""

    slope: float
    disagreement: float
    error: float
    blocks: list[float]
    """The error of the estimate from each predicted block of ε alone."""


@in_one_line()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the demo ran")
    parser.add_argument("models", nargs="*", default=["psld-0.02", "cld"])
    parser.add_argument("--figure", help="path of a figure without ending")
    given = parser.parse_args()
    store = ImageStore.open(given.folder / "data" / "digits.h5")
    train = from_uint8(torch.tensor(store.images("train")))
    test = from_uint8(torch.tensor(store.images("test")))
    spread = rms(train - train.mean(dim=0))
    print(f"deviation of the pixels: {train.std():.2f}, from the mean image {spread:.2f}")
    print("model       σ_eff  slope disagreement   error  linear mixture  each block")
    without = errors_without_a_network(train, test)
    found: dict[str, list[Errors]] = {}
    for name in given.models:
        model = psld.load(given.folder / "models" / "demo" / name, device="cpu")
        found[name] = [errors(model, test, level) for level in LEVELS]
        for level, row, best in zip(LEVELS, found[name], without, strict=True):
            each = " ".join(f"{error:.4f}" for error in row.blocks)
            numbers = f"{row.slope:6.3f} {row.disagreement:12.4f} {row.error:7.4f}"
            numbers += " ".join(f"{error:7.4f}" for error in best)
            print(f"{name:10} {level:6.2f} {numbers}  {each}")
    if given.figure:
        draw(found, given.figure)


def errors_without_a_network(train: Tensor, test: Tensor) -> list[tuple[float, float]]:
    """Return the errors of E[x₀ | y] at each noise level for one Gaussian, and for a mixture."""

    def passes() -> list[tuple[Tensor, Tensor]]:
        return [(train[:, None], torch.zeros(len(train)).long())]

    data = with_mixture(GaussianData.measure(passes, 0), passes, Start())
    noise = torch.randn(test.shape, generator=torch.Generator().manual_seed(0))
    laws = data.as_one(), data
    return [
        tuple(rms(posterior_mean(law, test + s * noise, s) - test) for law in laws) for s in LEVELS
    ]


@torch.no_grad()
def errors(model: psld.LoadedModel, x0: Tensor, level: float) -> Errors:
    """Return the errors at one noise level."""
    process = model.process
    t = time_of_noise_level(process, torch.tensor([level]), 1e-5)
    noise = torch.randn(
        len(x0), process.blocks, *x0.shape[2:], generator=torch.Generator().manual_seed(0)
    )
    z = mix(process.image_mean(t)[0, :, None], x0) + mix(process.image_factor(t)[0], noise)
    eps = model.network(z, t.float().expand(len(x0)))
    rows = prediction_coefficients(process, t)
    predicted = mix(rows.state[0], z) + mix(rows.eps[0], eps)
    state, data = consistent_eps(process, t)
    white = mix(state[0], z)
    implied = white - mix(data[0], predicted)
    centered = predicted - predicted.mean(dim=0)
    slope = (centered * (x0 - x0.mean(dim=0))).sum() / centered.square().sum()
    # One block alone: ε_b = v_b − g_b x̂₀.
    alone = [
        (v - e) / g - x
        for v, e, g in zip(white.unbind(1), eps.unbind(1), data[0, :, 0].tolist(), strict=True)
        for x in [x0[:, 0]]
    ]
    return Errors(
        slope=float(slope),
        disagreement=rms(eps - implied),
        error=rms(predicted - x0),
        blocks=[rms(error) for error in alone],
    )


def rms(error: Tensor) -> float:
    return float(error.square().mean().sqrt())


def draw(found: dict[str, list[Errors]], output: str) -> None:
    """Draw the disagreement, and the error from one block relative to that from all blocks."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FixedLocator, NullLocator

    from psld.report.plots import COLORS, DASHES, MARKERS, PANEL, Look, save

    several = {name: rows for name, rows in found.items() if len(rows[0].blocks) > 1}
    figure, (left, right) = plt.subplots(1, 2, figsize=(3 * PANEL[0], 3.4), layout="constrained")
    for color, (name, rows) in zip(COLORS, several.items(), strict=False):
        look = Look(color, MARKERS[0])
        left.plot(LEVELS, [row.disagreement for row in rows], label=name, **look.ours())
        for index, block in enumerate(BLOCKS):
            look = Look(color, MARKERS[index], DASHES[index])
            ratios = [row.blocks[index] / row.error for row in rows]
            right.plot(LEVELS, ratios, label=f"{name}, {block} alone", **look.ours())
    left.set(xscale="log", yscale="log", xlabel="noise level σ_eff")
    left.set(title="difference of the blocks of ε", ylabel="rms, in units of ε")
    right.set(xscale="log", yscale="log", xlabel="noise level σ_eff")
    right.set(title="error of x̂₀ from one block of ε", ylabel="relative to least squares")
    right.yaxis.set_major_locator(FixedLocator([1, 1.5, 2, 3, 5]))
    right.yaxis.set_major_formatter("{x:g}")
    right.yaxis.set_minor_locator(NullLocator())
    left.legend()
    right.legend(fontsize=9)
    save(figure, output)


if __name__ == "__main__":
    main()
