"""A small cell: its settings, and its first shard, which is sampled in this process."""

from pathlib import Path

import numpy as np
import torch

from psld.config.compose import compose_content
from psld.config.settings import parse
from psld.sampling.model import LoadedModel, cell_sampler, load_model
from psld.sampling.sample import sample_shard
from psld.sampling.settings import SampleSettings
from psld.sampling.shards import Shard, origin_of

CPU = torch.device("cpu")
SIZE = 8
SAMPLERS = {
    "em": ("sampler=em", "sampler.steps=6", "sampler.striding=quadratic"),
    "sscs": ("sampler=sscs", "sampler.steps=6"),
}


def settings(model, *overrides: str) -> SampleSettings:
    small = (f"shard_size={SIZE}", f"model={model}", "output=x")
    content = compose_content("sample", [*small, *overrides], "test")
    return parse(SampleSettings, content, "test")


def sample(model, *overrides: str, loaded: LoadedModel | None = None) -> Shard:
    """Return the first shard of the settings' range."""
    given = settings(model, *overrides)
    loaded = loaded or load_model(model, CPU)
    origin = origin_of(given, loaded, None).at(given.first)
    sampler = cell_sampler(loaded, None, given.sampler, given.batch_size)
    return sample_shard(given, loaded, sampler, origin)


def check_same_images(one: Shard, other: Shard) -> None:
    """Assert that images are equal up to rounding in convolutions: at most one pixel of a thousand
    differs, by one level."""
    difference = np.abs(one.images.astype(int) - other.images.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 1e-3


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
