# Reads: a model, and a guide or images to inpaint.  Makes: a range of a cell's shards, a record.
#
# The shards are a parameter, not outputs: Snakemake deletes a job's outputs before it runs the job.
# The process keeps complete shards, so a killed job loses at most one.


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
    conda:
        "../../envs/sample.yaml"
    params:
        cell="{grid}/{model}/{sampler}",
        record=lambda w: GRIDS.cell(w).digest,
        first=lambda w: int(w.first),
        shards=lambda w: int(w.last) - int(w.first) + 1,
    shell:
        "python -m psld sample cell={params.cell:q} record={params.record:q} first={params.first:q} "
        "shards={params.shards:q} > {log:q} 2>&1"
