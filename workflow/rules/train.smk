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
    params:
        settings=lambda wildcards: model_of(wildcards).settings,
        folder=subpath(output.manifest, parent=True),
    log:
        "logs/train/{grid}/{model}.log",
    conda:
        "../../envs/train.yaml"
    priority: 100
    shell:
        "python -m psld.train model={wildcards.grid}/{wildcards.model} data={input.images} "
        "output={params.folder} > {log} 2>&1"
