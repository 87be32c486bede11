"""The shipped parts: MODULE:CLASS of each kind, by noun. A module is imported when it is used."""

SAMPLERS = "psld.diffusion.samplers"

SHIPPED: dict[str, dict[str, str]] = {
    "sampler": {
        "em": f"{SAMPLERS}:EMSettings",
        "sscs": f"{SAMPLERS}:SSCSSettings",
        "rk45": f"{SAMPLERS}:RK45Settings",
        "multistep": f"{SAMPLERS}:MultistepSettings",
        "gddim": f"{SAMPLERS}:GDDIMSettings",
        "conjugate": f"{SAMPLERS}:ConjugateSettings",
    },
    "network": {
        "ncsnpp": "psld.networks.settings:NetworkSettings",
        "ncsnpp-guide": "psld.networks.settings:GuideSettings",
    },
}

GROUPS = {"network": "kind", "sampler": "integrator"}
"""The groups of configs whose files are parts, with the key of the kind."""
