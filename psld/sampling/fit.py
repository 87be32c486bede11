"""Checks that a sampler, a model and a guide fit together, from their settings. No torch."""

from psld.data.settings import DatasetSettings
from psld.sampling.settings import (
    ClassifierFreeGuidance,
    ClassifierGuidance,
    Label,
    SamplerSettings,
)
from psld.training.settings import GuideModelSettings, ModelSettings
from psld.utils.errors import UserError


def check_fit(
    sampler: SamplerSettings, model: ModelSettings, guide: GuideModelSettings | None
) -> None:
    """Raise UserError if the sampler cannot sample the model, or the guide cannot guide it."""
    if sampler.integrator == "sscs" and model.process.kind == "vp-sde":
        raise UserError("sscs needs a process with momentum; use em, multistep or rk45")
    match sampler.guidance:
        case ClassifierGuidance(label=label):
            _check_label(label, model.dataset)
            _check_guide(guide, model, sampler.guidance.official_time)
        case ClassifierFreeGuidance(label=label):
            if not model.num_classes:
                raise UserError(
                    "classifier-free guidance needs a class-conditional model; train one with "
                    "training.label_dropout=0.1, or give a guide"
                )
            _check_label(label, model.dataset)


def _check_label(label: Label, dataset: DatasetSettings) -> None:
    if not dataset.num_classes:
        raise UserError(f"guidance needs classes, and dataset {dataset.name} has none")
    if label != "cycle" and label >= dataset.num_classes:
        raise UserError(
            f"sampler.guidance.label: dataset {dataset.name} has no class {label}; there are 0 to "
            f"{dataset.num_classes - 1}, and cycle"
        )


def _check_guide(
    guide: GuideModelSettings | None, model: ModelSettings, official_time: bool
) -> None:
    """Check that the guide was trained on the model's dataset, noised by the model's process."""
    if guide is None:
        raise UserError("guidance by a guide needs one (psld train_guide)")
    for key in ("name", "channels", "image_size", "num_classes"):
        of_guide, of_model = getattr(guide.dataset, key), getattr(model.dataset, key)
        if of_guide != of_model:
            raise UserError(
                f"the guide was trained with dataset.{key} {of_guide}, the model with "
                f"{of_model}; train a guide on the model's dataset"
            )
    if guide.process != model.process:
        raise UserError(
            "the guide was trained on images noised by another process than the model's; "
            "train one with the model's process"
        )
    if official_time and guide.network.embedding == "fourier":
        raise UserError(
            "sampler.guidance.official_time: this guide embeds the logarithm of the time, and "
            "the reverse time begins at 0; use a guide with network.embedding=positional"
        )
