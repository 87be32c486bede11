"""Commands that use a trained model: sampling and likelihood.

The commands import torch after the settings are checked, so that help and errors appear quickly.
"""

from psld.commands.main import entry_point
from psld.evaluation.settings import LikelihoodCommandSettings
from psld.sampling.settings import SampleSettings


@entry_point("sample", SampleSettings, record="cell", job="sample_job", changeable=True)
def sample(settings: SampleSettings) -> None:
    """Sample images from a model, in one process: all shards of a cell, or a range of shards.

        psld sample model=demo/cld sampler=em sampler.steps=50 output=samples/mine
        psld sample model=models/demo/cld shard_size=16 output=sixteen png=pictures
        psld sample model=models/demo/psld-0.02 guidance@sampler.guidance=classifier \\
            guide=guides/demo/psld-0.02 sampler.guidance.label=3 output=threes
        psld sample model=models/demo/cld shards=50 output=samples/mine npz=mine.npz
        psld sample cell=demo/cld/em-quadratic-40      # all shards of a cell of a grid

    Each complete shard is saved, so a killed run loses at most the shard in progress. The command
    rejects an output folder that contains samples of a different model or sampler.
    """
    from psld.models.hub import fetched
    from psld.sampling.sample import sample_range

    local = settings.model_copy(update={"model": str(fetched(settings.model))})
    print(f"wrote {sample_range(local)}")


@entry_point("likelihood", LikelihoodCommandSettings)
def likelihood(settings: LikelihoodCommandSettings) -> None:
    """Compute an upper bound on the negative log-likelihood of a split, in bits per dimension.

        psld likelihood model=models/demo/psld-0.02 output=results/mine.json
        psld likelihood model=models/demo/cld split=train images=500 draws=10 output=bound.json

    Uniform noise within one gray level is added to each image (dequantization), and the probability
    flow maps the image to the prior. Because of dequantization, the result is an upper bound on
    average. For processes with momentum, the bound also depends on the number K of momentum draws
    (`draws`), and becomes tighter as K grows. The network computes in fp32. Lower is better. For
    tensors, no noise is added, and the result is in nats per dimension, in the units of the data.
    """
    from psld.evaluation.likelihood import measure_likelihood
    from psld.models.hub import fetched

    local = settings.model_copy(update={"model": str(fetched(settings.model))})
    result = measure_likelihood(local)
    bits, margin = result.bits_per_dimension, (result.high - result.low) / 2
    mean, unit = (result.nats_per_dimension, "nats") if bits is None else (bits, "bits")
    print(
        f"wrote {settings.output}: at most {mean:.4f} ± {margin:.4f} {unit} per dimension "
        "(upper bound)"
    )
