"""Animate sampling: 100 steps of Euler–Maruyama in the upper row, 3 steps of `few` in the lower.

    python -m benchmarks.animation MODEL OUTPUT.webp

MODEL is the folder of a trained model. Each frame shows the states after one more evaluation of the
network: the positions and, if the process has them, the momenta, in units of their standard
deviations in pure noise, from black (−1) to white (1). Both samplers start in the same frame. `few`
ends after three evaluations, and its last images remain visible. The first frames are shown longer
than the other frames. The images are the first images of seed 0, without selection. If the file
would be too large, it contains only every second evaluation, or every third, and so on.
"""

import argparse
import io
from pathlib import Path

import numpy as np
import torch
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

import psld
from psld.data.images import tiled
from psld.data.units import to_uint8
from psld.diffusion.loop import path
from psld.diffusion.matrices import mix
from psld.diffusion.score import NetworkScore
from psld.sampling.model import cell_sampler
from psld.sampling.named import named_sampler
from psld.utils.files import atomic_path
from psld.utils.randomness import ShardNoise

IMAGES, COLUMNS = 12, 6
BLOCKS = ("position", "momentum")
LARGEST = 2_000_000  # bytes of the file
FONT, LINE, BAR, GAP = 16, 44, 4, 20  # pixels
BLUE, LIGHT, GRAY = "#0072B2", "#DDDDDD", "#666666"
# Milliseconds per frame: while both samplers run, while one sampler runs, at the end.
SLOW, FAST, PAUSE = 1000, 60, 4000
# Use lossless compression, because it makes frames of noise smaller.
WEBP = {"format": "WEBP", "save_all": True, "lossless": True, "method": 4}

States = list[list[np.ndarray]]
"""For each evaluation: one picture, H×W×C, per block of variables, tiled from all samples."""


def states(model: psld.LoadedModel, sampler: str, steps: int, **options: object) -> States:
    """Sample images, and return the states after each evaluation."""
    chosen = named_sampler("states()", sampler, steps, options)
    whole = cell_sampler(model, None, chosen, batch_size=IMAGES)
    process, (channels, *size) = whole.process, whole.shape
    score = NetworkScore(whole.eps, whole.batching)
    scale = torch.linalg.inv(process.S.sqrt())
    with ShardNoise(0, 0, (IMAGES, process.blocks * channels, *size), model.device) as noise:
        first, start = noise(), whole.gaussian
        z = start(first, None, noise.uniform()) if start else process.prior(first)
        visited = [z for _, z in path(process, whole.settings, score, z, noise)]
    shown = [to_uint8(mix(scale, z)).cpu().numpy() for z in visited]
    return [[tiled(x, COLUMNS) for x in np.split(z, process.blocks, axis=1)[:2]] for z in shown]


def frame(rows: dict[str, States], evaluations: int) -> Image.Image:
    """Draw the states of each sampler after `evaluations`, or its last states if it has ended."""
    last = {name: len(sheets) - 1 for name, sheets in rows.items()}
    blocks = next(iter(rows.values()))[0]
    height, width, _ = blocks[0].shape
    size = len(blocks) * (width + GAP) - GAP, len(rows) * (LINE + height)
    picture = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.truetype(findfont("DejaVu Sans"), FONT)
    for row, (name, sheets) in enumerate(rows.items()):
        top, done = row * (LINE + height), min(evaluations, last[name])
        words = f"{name}: {done} of {last[name]} evaluations"
        draw.text((BAR, top + GAP // 2), words, "black", font)
        for length, color in (last[name], LIGHT), (done, BLUE):
            right = BAR + (width - 2 * BAR) * length / max(last.values())
            draw.rectangle((BAR, top + LINE - 3 * BAR, right, top + LINE - 2 * BAR), color)
        for column, (block, sheet) in enumerate(zip(BLOCKS, sheets[done], strict=False)):
            left = column * (width + GAP)
            draw.text((left + width - BAR, top + GAP // 2), block, GRAY, font, anchor="ra")
            picture.paste(Image.fromarray(sheet.squeeze()), (left, top + LINE))
    return picture


def animate(rows: dict[str, States], output: Path) -> None:
    """Write the animation. `rows` maps names of samplers to their states."""
    shortest, longest = (end(map(len, rows.values())) - 1 for end in (min, max))
    frames = [frame(rows, evaluations) for evaluations in range(longest + 1)]
    for every in range(1, longest + 1):
        shown = [n for n in range(longest) if n <= shortest or n % every == 0]
        times = [*(SLOW if n <= shortest else FAST * every for n in shown), PAUSE]
        first, *others = [*(frames[n] for n in shown), frames[-1]]
        file = io.BytesIO()
        first.save(file, append_images=others, duration=times, **WEBP)
        if file.tell() <= LARGEST:
            break
    with atomic_path(output) as partial:
        partial.write_bytes(file.getvalue())
    print(f"wrote {output}: {len(times)} frames, {file.tell():,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of a trained model")
    parser.add_argument("output", type=Path, help="path of the WebP file")
    given = parser.parse_args()
    model = psld.load(given.model, device="cpu")
    hundred = states(model, "em", 100, striding="quadratic")
    animate({"Euler–Maruyama": hundred, "few": states(model, "few", 3)}, given.output)


if __name__ == "__main__":
    main()
