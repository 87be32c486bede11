# Reads: a checkpoint of the official code, and data/DATASET.h5.  Makes: what rule train_classifier makes.


rule import_classifier:
    input:
        images=lambda wildcards: ancient(f"data/{classifier_of(wildcards).dataset}.h5"),
        digest=lambda wildcards: f"data/{classifier_of(wildcards).dataset}.digest",
        checkpoint=lambda wildcards: classifier_of(wildcards).checkpoint,
    output:
        weights="classifiers/{grid}/{classifier}/weights.safetensors",
        manifest="classifiers/{grid}/{classifier}/manifest.json",
    log:
        "logs/import_classifier/{grid}/{classifier}.log",
    wildcard_constraints:
        grid=grid_pattern("classifiers", imported=True),
    conda:
        "../../envs/train.yaml"
    params:
        settings=lambda wildcards: classifier_of(wildcards).settings,
        folder=subpath(output.manifest, parent=True),
    shell:
        "python -m psld.import_classifier {input.checkpoint:q} "
        "classifier={wildcards.grid}/{wildcards.classifier} data={input.images} "
        "output={params.folder} > {log} 2>&1"
