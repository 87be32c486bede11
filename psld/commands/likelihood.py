"""Measure the likelihood of a split under a model, in bits per dimension.

    psld likelihood model=models/demo/psld-0.02 output=results/mine.json
    psld likelihood model=models/demo/cld split=train images=500 draws=10 output=bound.json

The probability flow carries each image, with uniform noise within its gray levels, to the prior.
Momentum is drawn K times (`draws`), and the number is then an upper bound on the bits. The network
computes in fp32. Complete shards are kept: a killed run loses at most the shard in progress.
"""

from psld.commands.entry import entry_point
from psld.metrics.command_settings import LikelihoodCommandSettings
from psld.metrics.likelihood import measure_likelihood
from psld.training.hub import with_fetched_model


@entry_point("likelihood", LikelihoodCommandSettings)
def main(settings: LikelihoodCommandSettings) -> None:
    result = measure_likelihood(with_fetched_model(settings))
    mean, margin = result.bits_per_dimension, result.interval.half_width
    print(f"wrote {settings.output}: {mean:.4f} ± {margin:.4f} bits per dimension")
