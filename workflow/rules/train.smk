# Reads: data/DATASET.h5.  Makes: a model's EMA weights and its manifest.
#
# Checkpoints live in runs/, which Snakemake does not know: it deletes the outputs of a failed job,
# and a training resumes from its last checkpoint.


rule train:
    input:
        images=lambda wildcards: ancient(f"data/{dataset_of(wildcards)}.h5"),
        digest=lambda wildcards: f"data/{dataset_of(wildcards)}.digest",
    output:
        weights="models/{grid}/{model}/weights.safetensors",
        manifest="models/{grid}/{model}/manifest.json",
    log:
        "logs/train/{grid}/{model}.log",
    wildcard_constraints:
        grid=grid_pattern("models", imported=False),
    priority: 100
    conda:
        "../../envs/train.yaml"
    params:
        settings=lambda wildcards: model_of(wildcards).settings,
        folder=subpath(output.manifest, parent=True),
    shell:
        "python -m psld.train model={wildcards.grid}/{wildcards.model} data={input.images} "
        "output={params.folder} > {log} 2>&1"
