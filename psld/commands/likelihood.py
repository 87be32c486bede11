"""Measure the likelihood of a split under a model, in bits per dimension.

    psld likelihood model=models/demo/psld-0.02 output=results/mine.json
    psld likelihood model=models/demo/cld split=train images=500 draws=10 output=bound.json

The probability flow carries each image, with uniform noise within its gray levels, to the prior.
Momentum is drawn K times (`draws`), and the number is then an upper bound on the bits. The network
computes in fp32. Complete shards are kept: a killed run loses at most the shard in progress.
"""

import statistics

from psld.commands.entry import entry_point
from psld.config.settings import write_record
from psld.metrics.likelihood import LikelihoodResult, measure_shards, summary
from psld.metrics.results import Weights
from psld.metrics.settings import LikelihoodCommandSettings, LikelihoodSettings
from psld.training.manifest import ModelManifest, read_manifest
from psld.utils.provenance import provenance


@entry_point("likelihood", LikelihoodCommandSettings)
def main(settings: LikelihoodCommandSettings) -> None:
    shards = []
    for shard, made in measure_shards(settings):
        shards.append(shard)
        first = shard.origin.first
        cost = f"{shard.evaluations} evaluations" if made else "is there"
        print(
            f"images {first} to {first + len(shard.bits) - 1}: "
            f"{statistics.fmean(shard.bits):.4f} bits/dim, {cost}",
            flush=True,
        )
    result = LikelihoodResult(
        **summary(shards),
        likelihood=settings.model_dump(include=set(LikelihoodSettings.model_fields)),
        model=Weights(**read_manifest(settings.model, ModelManifest).identity()),
        **provenance(),
    )
    write_record(settings.output, result)
    mean, margin = result.bits_per_dimension, result.interval.half_width
    print(f"wrote {settings.output}: {mean:.4f} ± {margin:.4f} bits per dimension")
