# Reads: a cell's shards and the reference.  Makes: one metric of the cell, JSON.


rule evaluate:
    input:
        shards=shards_of,
        manifest="models/{grid}/{model}/manifest.json",
        guidance=guidance_inputs,
        images=guidance_images,
        reference=lambda wildcards: (
            f"features/{dataset_of(wildcards)}/{wildcards.metric}/reference/manifest.json"
        ),
    output:
        "results/cells/{grid}/{model}/{sampler}/{metric}-{samples}.json",
    log:
        "logs/evaluate/{grid}/{model}/{sampler}/{metric}-{samples}.log",
    conda:
        "../../envs/evaluate.yaml"
    params:
        settings=lambda wildcards: METRICS[wildcards.metric],
        overrides=lambda wildcards: overrides(sampler_of(wildcards)),
        shard_size=lambda wildcards: GRIDS[wildcards.grid].file.shard_size,
        seed=lambda wildcards: GRIDS[wildcards.grid].file.seed,
        extractor=lambda wildcards: extractor_folder(dataset_of(wildcards), wildcards.metric),
        model=subpath(input.manifest, parent=True),
        guidance=guidance_overrides,
        reference=subpath(input.reference, parent=True),
        shards="samples/{grid}/{model}/{sampler}",
    shell:
        "psld evaluate model={params.model} {params.overrides} {params.guidance} "
        "shards={params.shards} shard_size={params.shard_size} seed={params.seed} samples={wildcards.samples} "
        "metric={wildcards.metric} reference={params.reference} extractor={params.extractor} "
        "output={output} > {log} 2>&1"
