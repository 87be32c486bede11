r"""Draw samples of several models side by side, as in docs/images/emoji-steps.png.

    apt-get install fonts-noto-color-emoji unicode-data
    psld prepare dataset=emoji-16
    psld train --multirun dataset=emoji-16 process=psld process.gamma=0.02 network=small \
        training=small training.objective=denoiser training.steps=500,2500,5000 \
        'name=emoji-${training.steps}'
    python -m benchmarks.pictures docs/images/emoji-steps.png \
        models/by-hand/emoji-500 models/by-hand/emoji-2500 models/by-hand/emoji-5000

The models are denoisers of one dataset. The first sheet has draws from the mixture of Gaussians,
without a network. The next sheets have samples of the models, drawn with four evaluations of `few`
from the same random numbers. The last sheet has training images.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

import psld
from psld.data.images import tiled
from psld.utils.files import atomic_path

IMAGES, COLUMNS = 16, 4
FONT, LINE, GAP = 16, 24, 12  # pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="path of the PNG file")
    parser.add_argument("models", nargs="+", help="folders of trained models")
    given = parser.parse_args()
    models = [psld.load(each, device="cpu") for each in given.models]
    sheets = {"no network": models[0].sample(IMAGES, sampler="few", steps=0)}
    for model in models:
        steps = f"{model.settings.training.steps:,} training steps"
        sheets[steps] = model.sample(IMAGES, sampler="few", steps=4)
    trained_on = psld.load_images(f"data/{models[0].settings.dataset.name}.h5")
    sheets["training images"] = trained_on[:: len(trained_on) // IMAGES][:IMAGES]
    arranged = {title: tiled(images.numpy(), COLUMNS) for title, images in sheets.items()}
    height, width, _ = next(iter(arranged.values())).shape
    picture = Image.new("RGB", (len(sheets) * (width + GAP) - GAP, LINE + height), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.truetype(findfont("DejaVu Sans"), FONT)
    for column, (title, sheet) in enumerate(arranged.items()):
        left = column * (width + GAP)
        draw.text((left, 0), title, "black", font)
        picture.paste(Image.fromarray(np.squeeze(sheet)), (left, LINE))
    with atomic_path(given.output) as partial:
        picture.save(partial, format="PNG", optimize=True)


if __name__ == "__main__":
    main()
