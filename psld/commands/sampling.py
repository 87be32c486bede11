"""Commands of a trained model: its samples, and its likelihood.

They import torch when their settings are known, so their help and their errors do without it.
"""

from psld.commands.main import entry_point
from psld.evaluation.settings import LikelihoodCommandSettings
from psld.sampling.settings import SampleSettings


@entry_point("sample", SampleSettings, record="cell", job="sample_job", changeable=True)
def sample(settings: SampleSettings) -> None:
    """Sample a cell: a range of its shards, in one process.

        psld sample model=demo/cld sampler=em sampler.steps=50 output=samples/mine
        psld sample model=models/demo/cld shard_size=16 output=sixteen png=pictures
        psld sample model=models/demo/psld-0.02 guidance@sampler.guidance=classifier \\
            guide=guides/demo/psld-0.02 sampler.guidance.label=3 output=threes
        psld sample model=models/demo/cld shards=50 output=samples/mine npz=mine.npz
        psld sample cell=demo/cld/em-quadratic-40      # a grid's cell: all its shards

    Complete shards are kept. A killed run loses at most the shard in progress. An output with
    samples of another model or sampler is refused.
    """
    from psld.models.hub import fetched
    from psld.sampling.sample import sample_range

    local = settings.model_copy(update={"model": str(fetched(settings.model))})
    print(f"wrote {sample_range(local)}")


@entry_point("likelihood", LikelihoodCommandSettings)
def likelihood(settings: LikelihoodCommandSettings) -> None:
    """Measure the likelihood of a split under a model, in bits per dimension.

        psld likelihood model=models/demo/psld-0.02 output=results/mine.json
        psld likelihood model=models/demo/cld split=train images=500 draws=10 output=bound.json

    The probability flow carries each image, with uniform noise within its gray levels, to the
    prior. Momentum is drawn K times (`draws`), and the number is then an upper bound on the bits.
    The network computes in fp32.
    """
    from psld.evaluation.likelihood import measure_likelihood
    from psld.models.hub import fetched

    local = settings.model_copy(update={"model": str(fetched(settings.model))})
    result = measure_likelihood(local)
    mean, margin = result.bits_per_dimension, (result.high - result.low) / 2
    print(f"wrote {settings.output}: {mean:.4f} ± {margin:.4f} bits per dimension")
