"""The paper's masks, in the shape of digits. No torch."""

from typing import cast

from psld.diffusion.guidance import Mask


class DigitsMask(Mask):
    """Holes in the shape of digits: MNIST's training digit i in image i, as in the paper.

    Every pixel of the stroke, even a faint one, is in the hole, as in the official code. Digits are
    resized to the nearest pixel as in Pillow.
    """

    datasets = ("mnist",)

    kind: str = "digits"

    def draw(self, indices, image_size, mnist):
        import numpy as np

        from psld.data.store import ImageStore

        digits = ImageStore.open(cast(str, mnist)).images("train")
        nearest = ((np.arange(image_size) + 0.5) * digits.shape[-1] / image_size).astype(int)
        chosen = digits[np.array(indices) % len(digits), 0]
        return chosen[:, nearest[:, None], nearest] == 0
