# Reads: a checkpoint of the official code, and data/DATASET.h5.  Makes: what rule train_guide makes.


rule import_guide:
    input:
        images=lambda wildcards: ancient(f"data/{guide_of(wildcards).dataset}.h5"),
        digest=lambda wildcards: f"data/{guide_of(wildcards).dataset}.digest",
        checkpoint=lambda wildcards: guide_of(wildcards).checkpoint,
    output:
        weights="guides/{grid}/{guide}/weights.safetensors",
        manifest="guides/{grid}/{guide}/manifest.json",
    log:
        "logs/import_guide/{grid}/{guide}.log",
    wildcard_constraints:
        grid=grid_pattern("guides", imported=True),
    conda:
        "../../envs/train.yaml"
    params:
        settings=lambda wildcards: guide_of(wildcards).settings,
        folder=subpath(output.manifest, parent=True),
    shell:
        "psld import_guide {input.checkpoint:q} "
        "guide={wildcards.grid}/{wildcards.guide} data={input.images} "
        "output={params.folder} > {log} 2>&1"
