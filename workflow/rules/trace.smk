# Reads: a model with momentum.  Makes: the way of one image through phase space, which the report shows.
#
# It runs the network, so it wants what rule sample wants.


rule trace:
    input:
        weights=ancient("models/{grid}/{model}/weights.safetensors"),
        manifest="models/{grid}/{model}/manifest.json",
    output:
        vector="results/figures/{grid}/phase-space/{model}.svg",
        picture=report(
            "results/figures/{grid}/phase-space/{model}.png",
            caption="../report/trace.rst",
            category="Phase space",
            labels={"grid": "{grid}", "model": "{model}"},
        ),
    log:
        "logs/trace/{grid}/{model}.log",
    conda:
        "../../envs/trace.yaml"
    params:
        sampler=lambda wildcards: GRIDS[wildcards.grid].file.gallery,
        settings=lambda wildcards: gallery_of(wildcards).settings,
        overrides=lambda wildcards: overrides(gallery_of(wildcards)),
        shard_size=lambda wildcards: GRIDS[wildcards.grid].file.shard_size,
        seed=lambda wildcards: GRIDS[wildcards.grid].file.seed,
        model=subpath(input.manifest, parent=True),
        output=subpath(output.picture, strip_suffix=".png"),
    shell:
        "psld trace model={params.model} {params.overrides} "
        "shard_size={params.shard_size} seed={params.seed} "
        "title='{wildcards.model} by {params.sampler}' output={params.output} > {log} 2>&1"
