# Reads: data/DATASET.h5.  Makes: classifiers/GRID/NAME, a noise-conditional classifier that guides.
#
# Its checkpoints live in runs/, like those of models.


rule train_classifier:
    input:
        images=lambda wildcards: ancient(f"data/{classifier_of(wildcards).dataset}.h5"),
        digest=lambda wildcards: f"data/{classifier_of(wildcards).dataset}.digest",
    output:
        weights="classifiers/{grid}/{classifier}/weights.safetensors",
        history="classifiers/{grid}/{classifier}/history.json",
        manifest="classifiers/{grid}/{classifier}/manifest.json",
    log:
        "logs/train_classifier/{grid}/{classifier}.log",
    wildcard_constraints:
        grid=grid_pattern("classifiers", imported=False),
    priority: 100
    retries: 0
    localrule: True
    conda:
        "../../envs/train.yaml"
    resources:
        **TRAINING_JOB,
    params:
        settings=lambda wildcards: classifier_of(wildcards).settings,
        folder=subpath(output.manifest, parent=True),
    shell:
        f"{LAUNCH} psld.train_classifier classifier={{wildcards.grid}}/{{wildcards.classifier}} "
        "data={input.images} output={params.folder} > {log} 2>&1"
