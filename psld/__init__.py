"""Phase Space Langevin Diffusion (PSLD): processes, training, sampling, evaluation.

    import psld

    model = psld.load("models/demo/denoiser-psld")
    images = model.sample(16, sampler="few", steps=4, seed=0)     # uint8, 16×C×H×W
    psld.save_images(images, "sixteen.png")

Reference: K. Pandey and S. Mandt, "A Complete Recipe for Diffusion Generative Models", ICCV 2023.
"""

from importlib import import_module
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
    from psld.data.images import save_images
    from psld.evaluation.images import distance, evaluate, load_extractor, load_images
    from psld.library import LoadedModel, denoiser, from_denoiser, load, sample
    from psld.training.saving import save
else:
    PLACES = {
        "save": "psld.training.saving",
        "save_images": "psld.data.images",
        **dict.fromkeys(
            ("distance", "evaluate", "load_extractor", "load_images"), "psld.evaluation.images"
        ),
    }

    def __getattr__(name: str) -> object:
        """Import a function at its first use, because processes of Snakemake do not need torch."""
        if name in __all__:
            return getattr(import_module(PLACES.get(name, "psld.library")), name)
        raise AttributeError(f"module 'psld' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
