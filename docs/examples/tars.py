r"""A source that reads pictures from tar files of webdataset.

    psld prepare dataset=folder dataset.name=shards \
        dataset.source=tars:Tars dataset.source.path=downloads/shards

Folders, zip archives, arrays and datasets of Hugging Face need no code (docs/usage.md). A picture
can be a function, as here, which is called when the picture is needed.
"""

import tarfile
from functools import partial
from pathlib import Path

import numpy as np

from psld.parts import Images, Source


class Tars(Source):
    """Tar files with pictures NAME.png, and the index of their class in NAME.cls."""

    path: str

    def open(self):
        from psld.data.images import decode

        pairs = []
        for tar in sorted(Path(self.path).glob("*.tar")):
            data = np.memmap(tar, mode="r")
            with tarfile.open(tar) as files:
                for file in files.getmembers():
                    if file.name.endswith(".png"):
                        label = int(files.extractfile(f"{file.name[:-3]}cls").read())
                        picture = data[file.offset_data : file.offset_data + file.size]
                        pairs.append((partial(decode, picture, file.name), label))
        return Images(pairs, class_names=[f"{i}" for i in range(1 + max(i for _, i in pairs))])
