# Models, and the guides that steer samplers: trained, or imported from official checkpoints.
#
# A training keeps its checkpoints in runs/, because Snakemake deletes the outputs of a failed job and
# the training has to resume from its last checkpoint. The training rules are local, because the
# launcher itself submits one Slurm job for all ranks and waits for the job. Without Slurm, the launcher
# runs the ranks on this machine.


# Reads: data/DATASET.h5, and models or samples that the training uses.  Makes: a model's EMA weights,
# history and manifest.
rule train:
    input:
        images=lambda w: ancient(GRIDS.model(w).settings.data),
        digest=lambda w: GRIDS.model(w).dataset_digest,
        reads=lambda w: GRIDS.model(w).reads,
    output:
        weights="models/{model}/weights.safetensors",
        history="models/{model}/history.json",
        manifest="models/{model}/manifest.json",
    log:
        "logs/train/{model}.log",
    wildcard_constraints:
        model=GRIDS.pattern("models", imported=False),
    priority: lambda w: 200 if GRIDS.is_awaited("models/{model}/manifest.json", w) else 100
    localrule: True
    conda:
        "../../envs/psld.yaml"
    resources:
        **TRAINING_JOB,
    params:
        record=lambda w: GRIDS.model(w).digest,
    shell:
        f"{LAUNCH} train model={{wildcards.model:q}} record={{params.record:q}} > {{log:q}} 2>&1"


# Reads: data/DATASET.h5, and models or samples that the training uses.  Makes: a guide's weights,
# history and manifest.
rule train_guide:
    input:
        images=lambda w: ancient(GRIDS.guide(w).settings.data),
        digest=lambda w: GRIDS.guide(w).dataset_digest,
        reads=lambda w: GRIDS.guide(w).reads,
    output:
        weights="guides/{guide}/weights.safetensors",
        history="guides/{guide}/history.json",
        manifest="guides/{guide}/manifest.json",
    log:
        "logs/train_guide/{guide}.log",
    wildcard_constraints:
        guide=GRIDS.pattern("guides", imported=False),
    priority: 100
    localrule: True
    conda:
        "../../envs/psld.yaml"
    resources:
        **TRAINING_JOB,
    params:
        record=lambda w: GRIDS.guide(w).digest,
    shell:
        f"{LAUNCH} train_guide guide={{wildcards.guide:q}} record={{params.record:q}} > {{log:q}} 2>&1"


# Reads: a checkpoint of the official code, and data/DATASET.h5.  Makes: a model, without a history.
rule import_model:
    input:
        images=lambda w: ancient(GRIDS.model(w).settings.data),
        digest=lambda w: GRIDS.model(w).dataset_digest,
        checkpoint=lambda w: GRIDS.model(w).checkpoint,
    output:
        weights="models/{model}/weights.safetensors",
        manifest="models/{model}/manifest.json",
    log:
        "logs/import_model/{model}.log",
    wildcard_constraints:
        model=GRIDS.pattern("models", imported=True),
    conda:
        "../../envs/psld.yaml"
    params:
        record=lambda w: GRIDS.model(w).digest,
    shell:
        "python -m psld import_model {input.checkpoint:q} model={wildcards.model:q} "
        "record={params.record:q} > {log:q} 2>&1"


# Reads: a checkpoint of the official code, and data/DATASET.h5.  Makes: a guide, without a history.
rule import_guide:
    input:
        images=lambda w: ancient(GRIDS.guide(w).settings.data),
        digest=lambda w: GRIDS.guide(w).dataset_digest,
        checkpoint=lambda w: GRIDS.guide(w).checkpoint,
    output:
        weights="guides/{guide}/weights.safetensors",
        manifest="guides/{guide}/manifest.json",
    log:
        "logs/import_guide/{guide}.log",
    wildcard_constraints:
        guide=GRIDS.pattern("guides", imported=True),
    conda:
        "../../envs/psld.yaml"
    params:
        record=lambda w: GRIDS.guide(w).digest,
    shell:
        "python -m psld import_guide {input.checkpoint:q} guide={wildcards.guide:q} "
        "record={params.record:q} > {log:q} 2>&1"
