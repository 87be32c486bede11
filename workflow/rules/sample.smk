# Reads: a model, and what guides the sampler.  Makes: one shard of images.


rule sample:
    input:
        weights=ancient("models/{grid}/{model}/weights.safetensors"),
        manifest="models/{grid}/{model}/manifest.json",
        guidance=guidance_inputs,
        images=guidance_images,
    output:
        "samples/{grid}/{model}/{sampler}/{shard}.h5",
    log:
        "logs/sample/{grid}/{model}/{sampler}/{shard}.log",
    conda:
        "../../envs/sample.yaml"
    resources:
        # Speed and memory only: not a parameter, so changing it resamples nothing.
        batch_size=lambda wildcards: GRIDS[wildcards.grid].file.batch_size,
    params:
        settings=lambda wildcards: sampler_of(wildcards).settings,
        overrides=lambda wildcards: overrides(sampler_of(wildcards)),
        shard=lambda wildcards: int(wildcards.shard),
        shard_size=lambda wildcards: GRIDS[wildcards.grid].file.shard_size,
        seed=lambda wildcards: GRIDS[wildcards.grid].file.seed,
        model=subpath(input.manifest, parent=True),
        guidance=guidance_overrides,
    shell:
        "psld sample model={params.model} {params.overrides} {params.guidance} "
        "shard={params.shard} shard_size={params.shard_size} seed={params.seed} "
        "batch_size={resources.batch_size} output={output} > {log} 2>&1"
