"""The handwritten digits that scikit-learn ships: 1,797 images, 8×8, values 0…16."""

from importlib.resources import as_file, files

import numpy as np
from sklearn.datasets import load_digits

from psld.data.settings import DigitsSource
from psld.data.source import Source, source_of_arrays
from psld.utils.files import sha256_of_file


def open_digits(_: DigitsSource) -> Source:
    """1,437 images to train and 360 to test: every fifth of the images sorted by class.

    The file itself repeats 0…9, so every fifth of it would be a zero or a five.
    """
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    in_test = np.zeros(len(images), dtype=bool)
    in_test[np.argsort(digits.target, kind="stable")[::5]] = True
    with as_file(files("sklearn.datasets.data") / "digits.csv.gz") as path:
        checksums = {path.name: sha256_of_file(path)}
    return source_of_arrays(
        train=(images[~in_test], digits.target[~in_test]),
        test=(images[in_test], digits.target[in_test]),
        class_names=tuple("0123456789"),
        checksums=checksums,
    )
