# Reads: data/DATASET.h5.  Makes: a model's EMA weights and its manifest.
#
# Checkpoints live in runs/, which Snakemake does not know: it deletes the outputs of a failed job,
# and a training resumes from its last checkpoint. The rule is local: its launcher submits the job of
# all ranks where there is Slurm and waits for it, and runs the ranks here where there is none.


rule train:
    input:
        images=lambda wildcards: ancient(f"data/{dataset_of(wildcards)}.h5"),
        digest=lambda wildcards: f"data/{dataset_of(wildcards)}.digest",
    output:
        weights="models/{grid}/{model}/weights.safetensors",
        history="models/{grid}/{model}/history.json",
        manifest="models/{grid}/{model}/manifest.json",
    log:
        "logs/train/{grid}/{model}.log",
    wildcard_constraints:
        grid=grid_pattern("models", imported=False),
    priority: 100
    retries: 0
    localrule: True
    conda:
        "../../envs/train.yaml"
    resources:
        **TRAINING_JOB,
    params:
        settings=lambda wildcards: model_of(wildcards).settings,
        folder=subpath(output.manifest, parent=True),
    shell:
        f"{LAUNCH} psld.train model={{wildcards.grid}}/{{wildcards.model}} data={{input.images}} "
        "output={params.folder} > {log} 2>&1"
