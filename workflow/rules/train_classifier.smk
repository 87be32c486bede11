# Reads: data/DATASET.h5.  Makes: guides/GRID/NAME, a noise-conditional guide that guides.
#
# Its checkpoints live in runs/, like those of models.


rule train_guide:
    input:
        images=lambda wildcards: ancient(f"data/{guide_of(wildcards).dataset}.h5"),
        digest=lambda wildcards: f"data/{guide_of(wildcards).dataset}.digest",
    output:
        weights="guides/{grid}/{guide}/weights.safetensors",
        history="guides/{grid}/{guide}/history.json",
        manifest="guides/{grid}/{guide}/manifest.json",
    log:
        "logs/train_guide/{grid}/{guide}.log",
    wildcard_constraints:
        grid=grid_pattern("guides", imported=False),
    priority: 100
    retries: 0
    localrule: True
    conda:
        "../../envs/train.yaml"
    resources:
        **TRAINING_JOB,
    params:
        settings=lambda wildcards: guide_of(wildcards).settings,
        folder=subpath(output.manifest, parent=True),
    shell:
        f"{LAUNCH} psld.train_guide guide={{wildcards.grid}}/{{wildcards.guide}} "
        "data={input.images} output={params.folder} > {log} 2>&1"
