"""Phase Space Langevin Diffusion (PSLD): processes, training, sampling, evaluation.

    import psld

    model = psld.load("models/demo/denoiser-psld")
    images = model.sample(16, sampler="few", steps=4, seed=0)     # uint8, 16×C×H×W
    psld.save_images(images, "sixteen.png")

Reference: K. Pandey and S. Mandt, "A Complete Recipe for Diffusion Generative Models", ICCV 2023.
"""

from typing import TYPE_CHECKING

from psld.utils import VERSION

__version__ = VERSION

__all__ = [
    "LoadedModel",
    "__version__",
    "denoiser",
    "distance",
    "evaluate",
    "from_denoiser",
    "load",
    "load_extractor",
    "load_images",
    "sample",
    "save",
    "save_images",
]

if TYPE_CHECKING:
    from psld.library import *
else:

    def __getattr__(name: str) -> object:
        """Import the library on first use: it needs torch, and Snakemake's processes do not."""
        if name in __all__:
            from psld import library

            return getattr(library, name)
        raise AttributeError(f"module 'psld' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
