# Reads: a checkpoint of the official code, and data/DATASET.h5.  Makes: what rule train makes.
#
# A model or guide of a grid that names a `checkpoint` is imported instead of trained. By ruleorder
# alone, one whose checkpoint is missing would be trained; so patterns decide.


rule import_checkpoint:
    input:
        images=lambda wildcards: ancient(f"data/{dataset_of(wildcards)}.h5"),
        digest=lambda wildcards: f"data/{dataset_of(wildcards)}.digest",
        checkpoint=lambda wildcards: model_of(wildcards).checkpoint,
    output:
        weights="models/{grid}/{model}/weights.safetensors",
        manifest="models/{grid}/{model}/manifest.json",
    log:
        "logs/import_checkpoint/{grid}/{model}.log",
    wildcard_constraints:
        grid=grid_pattern("models", imported=True),
    conda:
        "../../envs/train.yaml"
    params:
        settings=lambda wildcards: model_of(wildcards).settings,
        folder=subpath(output.manifest, parent=True),
    shell:
        "psld import_checkpoint {input.checkpoint:q} model={wildcards.grid}/{wildcards.model} "
        "data={input.images} output={params.folder} > {log} 2>&1"
