r"""Tensors of a physical field: elevations in meters, with a metric of their power spectrum.

    psld prepare dataset=tensors dataset.name=terrain dataset.channels=1 dataset.image_size=16 \
        dataset.source=terrain:Terrain
    psld train data=data/terrain.h5 network=demo training=demo name=terrain
    psld sample model=by-hand/terrain sampler=em sampler.steps=100 shard_size=250 shards=4 \
        output=samples/terrain png=terrain.png
    psld evaluate images=samples/terrain dataset=terrain metric=frechet@terrain:Spectrum

The elevations are those of the Jacksboro fault (USGS, 3 arc seconds), which matplotlib ships.
"""

import numpy as np
import torch
from matplotlib.cbook import get_sample_data

from psld.parts import Extractor, Images, Source

SIDE, STRIDE = 16, 4


class Terrain(Source):
    """Overlapping squares of elevations. Squares in the eastern fifth of the map are for tests."""

    def open(self):
        elevation = get_sample_data("jacksboro_fault_dem.npz")["elevation"].astype(np.float32)
        border = int(0.8 * elevation.shape[1])
        parts = elevation[:, :border], elevation[:, border:]
        train, test = ([(square, 0) for square in squares(part)] for part in parts)
        return Images(train, test)


def squares(elevation):
    windows = np.lib.stride_tricks.sliding_window_view(elevation, (SIDE, SIDE))
    return windows[::STRIDE, ::STRIDE].reshape(-1, SIDE, SIDE)


class Spectrum(Extractor):
    """The logarithm of the power spectrum by wavenumber, which describes the roughness of terrain.

    ln P(k) for k = 1, …, H/2, where P(k) is the mean of |FFT|² over the wavenumbers (k_x, k_y)
    whose length rounds to k.
    """

    sees = "values"
    downloads = False

    def build(self, device):
        return log_spectrum

    def digest(self):
        return "1"  # another text if the features change


def log_spectrum(fields):
    height, width = fields.shape[2:]
    power = torch.fft.fft2(fields).abs().square().mean(dim=1).flatten(1)
    ky, kx = (torch.fft.fftfreq(n, 1 / n, device=fields.device) for n in (height, width))
    wavenumber = (ky[:, None] ** 2 + kx**2).sqrt().round().int().flatten()
    shells = [power[:, wavenumber == k].mean(dim=1) for k in range(1, height // 2 + 1)]
    return torch.stack(shells, dim=1).clamp(min=1e-12).log()
