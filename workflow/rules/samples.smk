# Reads: a model, and a guide or images to inpaint.  Makes: a range of a cell's shards, a record.
#
# The shards are a parameter, not outputs: Snakemake deletes a job's outputs before it runs the job.
# The process keeps complete shards, so a killed job loses at most one.


rule sample:
    input:
        weights=lambda w: ancient(GRIDS.model_file(w.grid, w.model, "weights.safetensors")),
        manifest=lambda w: GRIDS.model_file(w.grid, w.model, "manifest.json"),
        guidance=lambda w: GRIDS.inputs_of_sampling(w.grid, w.model, w.sampler),
        images=lambda w: [ancient(f) for f in GRIDS.images_of_sampling(w.grid, w.model, w.sampler)],
    output:
        "samples/{grid}/{model}/{sampler}/{first}-{last}.json",
    log:
        "logs/sample/{grid}/{model}/{sampler}/{first}-{last}.log",
    conda:
        "../../envs/sample.yaml"
    params:
        settings=lambda w: GRIDS.sampling_params(w.grid, w.sampler),
        cell="{grid}/{model}/{sampler}",
        first=lambda w: int(w.first),
        shards=lambda w: int(w.last) - int(w.first) + 1,
    shell:
        "python -m psld sample cell={params.cell:q} first={params.first:q} shards={params.shards:q} > {log:q} 2>&1"
