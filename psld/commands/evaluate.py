"""Evaluate a cell: metrics of its first images, from one pass over its shards.

    psld evaluate cell=demo/cld/em-quadratic-40      # all metrics of the cell in the grid
    psld evaluate model=models/demo/cld sampler=em sampler.steps=50 \\
        shards=samples/demo/cld/em-uniform-50 samples=1000 metric=fd-classifier \\
        reference=features/digits/fd-classifier/reference extractor=features/digits/fd-classifier \\
        output=result.json
"""

from psld.commands.command import FromRecord
from psld.commands.entry import entry_point
from psld.metrics.evaluation import evaluate
from psld.metrics.settings import EvaluateCommandSettings, EvaluateSettings
from psld.training.hub import with_fetched_model

RUN = {"shards", "output", "keep", "device"}
RECORDS = {"cell": FromRecord("cells", RUN, "evaluate_job")}


@entry_point("evaluate", EvaluateCommandSettings, records=RECORDS)
def main(settings: EvaluateSettings | EvaluateCommandSettings) -> float:
    if isinstance(settings, EvaluateCommandSettings):
        settings = settings.evaluation()
    results = evaluate(with_fetched_model(settings)).results
    for result in results:
        print(f"{result.metric['name']} of {result.samples} images: {result.value:.4g}")
    return results[0].value
