"""Sample a cell: a range of its shards, in one process.

    psld sample model=models/demo/cld sampler=em sampler.steps=50 output=samples/mine
    psld sample model=models/demo/cld shard_size=16 output=sixteen png=pictures
    psld sample model=models/demo/psld-0.02 guidance@sampler.guidance=classifier \\
        guide=guides/demo/psld-0.02 sampler.guidance.label=3 output=threes
    psld sample cell=demo/cld/em-quadratic-40 first=0 shards=4      # a grid's cell

Complete shards are kept. A killed run loses at most the shard in progress.
"""

import numpy as np

from psld.commands.entry import FromRecord, entry_point
from psld.grid import jobs
from psld.sampling.records import SampledShard, ShardRecord
from psld.sampling.sample import sample_shards
from psld.sampling.settings import SampleSettings, SamplingRun

RUN = {"first", "shards", "output", "png", *SamplingRun.model_fields}
RECORDS = {"cell": FromRecord(jobs.sample, RUN, True)}


@entry_point("sample", SampleSettings, records=RECORDS)
def main(settings: SampleSettings) -> None:
    if settings.png:
        # Only pictures need Pillow.
        from psld.data.picture import is_single_picture, save_images

        is_single_picture(settings.png)  # Refuses a wrong path before the work.
    records, images = [], []
    for shard, made in sample_shards(settings):
        index, count = shard.origin.index, len(shard.images)
        records.append(SampledShard(index=index, digest=shard.digest(), images=count))
        images += [shard.images] if settings.png else []
        done = f"{count} images, NFE {shard.nfe}" if made else "is there"
        print(f"shard {index}: {done}", flush=True)
    if settings.png:
        save_images(np.concatenate(images), settings.png)
        print(f"wrote {settings.png}")
    path = ShardRecord(shards=tuple(records)).write(settings.output)
    print(f"wrote {path}")
