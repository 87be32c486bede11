# Reads: data/DATASET.h5.  Makes: an initial distribution (`start`) that is fitted to the training images.
rule start:
    input:
        images=lambda w: ancient(GRIDS.start(w).settings.data),
        digest=lambda w: dataset_digest(GRIDS.start(w).settings.data),
    output:
        "starts/{start}.safetensors",
    log:
        "logs/start/{start}.log",
    priority: 200  # Samples wait for the distribution, and a training may wait for the samples.
    conda:
        "../../envs/psld.yaml"
    params:
        start=lambda w, output: GRIDS.word("starts", w.start),
        record=lambda w: GRIDS.start(w).job.digest,
    shell:
        "python -m psld start start={params.start:q} record={params.record:q} > {log:q} 2>&1"


# Reads: a model, a start, and a guide or images to inpaint.  Makes: a range of a cell's shards, and a
# record of the range.
#
# The shards are not outputs, because Snakemake deletes a job's outputs before it reruns the job. Complete
# shards are kept, so a killed job loses at most one shard.


rule sample:
    input:
        weights=lambda w: ancient(f"{GRIDS.cell(w).model.folder}/weights.safetensors"),
        manifest=lambda w: GRIDS.cell(w).model.manifest,
        guidance=lambda w: GRIDS.cell(w).inputs,
        images=lambda w: [ancient(file) for file in GRIDS.cell(w).datasets.values()],
    output:
        "samples/{grid}/{model}/{sampler}/{first}-{last}.json",
    log:
        "logs/sample/{grid}/{model}/{sampler}/{first}-{last}.log",
    priority: lambda w: 200 if GRIDS.is_awaited(rules.sample.output[0], w) else 0
    conda:
        "../../envs/psld.yaml"
    params:
        cell="{grid}/{model}/{sampler}",
        record=lambda w: GRIDS.cell(w).digest,
        first=lambda w: int(w.first),
        shards=lambda w: int(w.last) - int(w.first) + 1,
    shell:
        "python -m psld sample cell={params.cell:q} record={params.record:q} first={params.first:q} "
        "shards={params.shards:q} > {log:q} 2>&1"
