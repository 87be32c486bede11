"""The handwritten digits that scikit-learn ships: 1,797 images, 8×8, values 0…16."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from psld.data.settings import DigitsSource
from psld.data.source import Source, pictures_of
from psld.utils.errors import UserError
from psld.utils.files import sha256_of_file


def open_digits(_: DigitsSource) -> Source:
    """1,437 images to train and 360 to test: every fifth of the images sorted by class.

    The file itself repeats 0…9, so every fifth of it would be a zero or a five.
    """
    # Importing scikit-learn itself takes a second.
    found = find_spec("sklearn")
    if found is None:
        raise UserError("dataset=digits: the images are part of scikit-learn; install it")
    path = Path(found.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    # Each line has the 64 values of an image, then its class.
    lines = np.loadtxt(path, delimiter=",")
    images = np.round(lines[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = lines[:, -1].astype(int)
    in_test = np.zeros(len(images), dtype=bool)
    in_test[np.argsort(labels, kind="stable")[::5]] = True
    return Source(
        train=pictures_of(images[~in_test], labels[~in_test]),
        test=pictures_of(images[in_test], labels[in_test]),
        class_names=tuple("0123456789"),
        checksums={path.name: sha256_of_file(path)},
    )
