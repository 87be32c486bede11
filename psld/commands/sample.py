"""Sample a cell: a range of its shards, in one process.

    psld sample model=models/demo/cld sampler=em sampler.steps=50 output=samples/mine
    psld sample model=models/demo/cld shard_size=16 output=sixteen png=pictures
    psld sample model=models/demo/psld-0.02 guidance@sampler.guidance=classifier \\
        guide=guides/demo/psld-0.02 sampler.guidance.label=3 output=threes
    psld sample model=models/demo/cld shards=50 output=samples/mine npz=mine.npz
    psld sample cell=demo/cld/em-quadratic-40 first=0 shards=4      # a grid's cell

Complete shards are kept. A killed run loses at most the shard in progress.
"""

from psld.commands.command import FromRecord
from psld.commands.entry import entry_point
from psld.sampling.sample import sample_range
from psld.sampling.settings import SampleSettings, SamplingRun
from psld.training.hub import with_fetched_model

RUN = {"first", "shards", "output", "png", "npz", *SamplingRun.model_fields}
RECORDS = {"cell": FromRecord("cells", RUN, "sample_job", changeable=True)}


@entry_point("sample", SampleSettings, records=RECORDS)
def main(settings: SampleSettings) -> None:
    print(f"wrote {sample_range(with_fetched_model(settings))}")
