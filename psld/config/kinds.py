"""The shipped parts: MODULE:CLASS of each part, grouped by the kind of part.

The modules are imported only when a part is used.
"""

METRICS = "psld.metrics.settings"
SAMPLERS = "psld.diffusion.samplers"
SOURCES = "psld.data.sources"
RECIPE = "psld.models.recipe"
GUIDANCE = "psld.diffusion.guidance"
OBJECTIVES = "psld.models.objectives"

PROCESSES = "psld.diffusion.settings"

SHIPPED: dict[str, dict[str, str]] = {
    "process": {
        "vp-sde": f"{PROCESSES}:VPSDESettings",
        "psld": f"{PROCESSES}:PSLDSettings",
        "recipe": f"{PROCESSES}:RecipeSettings",
    },
    "beta": {
        "constant": f"{PROCESSES}:ConstantBeta",
        "cosine": f"{PROCESSES}:CosineBeta",
        "sigmoid": f"{PROCESSES}:SigmoidBeta",
        "log-linear": f"{PROCESSES}:LogLinearBeta",
    },
    "sampler": {
        "em": f"{SAMPLERS}:EMSettings",
        "sscs": f"{SAMPLERS}:SSCSSettings",
        "rk45": f"{SAMPLERS}:RK45Settings",
        "multistep": f"{SAMPLERS}:MultistepSettings",
        "gddim": "psld.paper.parts:GDDIMSettings",
        "conjugate": "psld.paper.parts:ConjugateSettings",
    },
    "guidance": {
        "none": f"{GUIDANCE}:NoGuidance",
        "classifier": f"{GUIDANCE}:ClassifierGuidance",
        "classifier-free": f"{GUIDANCE}:ClassifierFreeGuidance",
        "inpainting": f"{GUIDANCE}:InpaintingGuidance",
    },
    "mask": {
        "halves": f"{GUIDANCE}:HalvesMask",
        "digits": "psld.paper.parts:DigitsMask",
    },
    "objective": {
        "epsilon": f"{OBJECTIVES}:Epsilon",
        "denoiser": f"{OBJECTIVES}:Denoiser",
        "distilled": "psld.sampling.distilled:Distilled",
        "guide": f"{OBJECTIVES}:Guide",
        "image-guide": f"{OBJECTIVES}:ImageGuide",
    },
    "extractor": {
        "inception": f"{METRICS}:InceptionSettings",
        "classifier": f"{METRICS}:ClassifierSettings",
        "dinov2": f"{METRICS}:DINOv2Settings",
        "pixels": f"{METRICS}:PixelSettings",
        "values": f"{METRICS}:ValueSettings",
    },
    "measure": {
        "frechet": f"{METRICS}:FrechetSettings",
        "kernel": f"{METRICS}:KernelSettings",
        "inception-score": f"{METRICS}:InceptionScoreSettings",
        "precision": f"{METRICS}:PrecisionSettings",
        "recall": f"{METRICS}:RecallSettings",
        "memorization": f"{METRICS}:MemorizationSettings",
    },
    "network": {
        "ncsnpp": "psld.networks.settings:NetworkSettings",
        "ncsnpp-guide": "psld.networks.settings:GuideSettings",
    },
    "source": {
        "digits": f"{SOURCES}:Digits",
        "mnist": f"{SOURCES}:MNIST",
        "fashion-mnist": f"{SOURCES}:FashionMNIST",
        "cifar10": f"{SOURCES}:CIFAR10",
        "folder": f"{SOURCES}:Folder",
        "array": f"{SOURCES}:Array",
        "datasets": f"{SOURCES}:HuggingFace",
        "prepared": f"{SOURCES}:Prepared",
        "celeba": "psld.paper.parts:CelebA",
        "afhqv2": "psld.paper.parts:AFHQv2",
    },
    "autoencoder": {},
    "optimizer": {"adam": f"{RECIPE}:Adam", "adamw": f"{RECIPE}:AdamW"},
    "schedule": {
        "constant": f"{RECIPE}:Constant",
        "cosine": f"{RECIPE}:Cosine",
        "inverse-sqrt": f"{RECIPE}:InverseSqrt",
    },
    "average": {"ema": f"{RECIPE}:ExponentialAverage"},
    "logger": {},
}

OF_A_TRAINING = ("network", "objective", "optimizer", "schedule", "average", "logger")
"""The kinds of parts that may read a model or the samples of a cell (`psld.config.reads`)."""

GROUPS = {"sampler": "integrator"}
GROUPS |= dict.fromkeys(("network", "process", "guidance", "mask"), "kind")
"""The config groups whose files describe parts, with the key that holds the name of the part."""
