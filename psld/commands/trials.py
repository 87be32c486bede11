"""The trials with which `psld check` tests custom parts.

A trial builds a part and calls it once on random data.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from psld.config.settings import parse
from psld.utils.errors import UserError

CALL = "psld check"


def trial_in_training(part: Any, network: str | None) -> Iterator[str]:
    """Run one training step on digits with the part."""
    from psld.config.compose import compose_content
    from psld.models.build import build, build_process, check_rebuilt, loss_of, try_loss
    from psld.training.loop import check_schedule
    from psld.training.settings import TrainGuideSettings, TrainSettings
    from psld.training.state import TrainingState

    is_guide = part.noun == "objective" and part.makes == "guide"
    command, kind = ("train_guide", TrainGuideSettings) if is_guide else ("train", TrainSettings)
    words = ["dataset=digits", "training=guide-demo" if is_guide else "training=demo", "name=check"]
    words += [f"network={network or ('guide-demo' if is_guide else 'demo')}"]
    content = compose_content(command, words, CALL)
    content["training"] |= {"warmup_steps": 0}
    if part.noun == "average":
        content["training"] |= {"ema_decay": None}
    group = content if part.noun in ("network", "process", "logger") else content["training"]
    group[part.noun] = part
    run = parse(kind, content, CALL)
    process = build_process(run)
    module = build(run, process)
    weights = sum(each.numel() for each in module.parameters())
    shape = "×".join(map(str, module.in_shape))  # pyright: ignore
    yield f"the network takes {shape} and has {weights:,} parameters"
    check_rebuilt(module, run, process)
    yield "a rebuilt network with loaded weights gives the same output"
    value, lacking = try_loss(module, loss_of(run, process), is_guide)
    if not math.isfinite(value):
        raise UserError(f"{CALL}: the loss of two random images is {value}")
    yield f"the loss of two random images is {value:.4g}" + "; some weights are unused" * lacking
    check_schedule(run.training)
    state = TrainingState(module, run.training)
    for each in module.parameters():
        each.grad = torch.zeros_like(each)
    state.optimizer.step()
    state.average.update(module)
    state.check()
    yield "the optimizer takes a step, and a checkpoint can hold the state of the training"


def _trial_in_sampling(part: Any, _network: str | None) -> Iterator[str]:
    """Sample from a Gaussian with PSLD. Guidance is tested with the sampler EM."""
    from psld.diffusion.loop import sample
    from psld.diffusion.samplers import SamplerSettings
    from psld.diffusion.settings import ProcessSettings
    from psld.utils.batching import Batching
    from psld.utils.randomness import ShardNoise

    recipe = {"kind": "psld", "gamma": 0.02, "mass_inverse": 4, "kappa": 0.04}
    process = parse(ProcessSettings, recipe, CALL).build()
    sampler = part
    if part.noun == "guidance":
        content = {"integrator": "em", "steps": 5, "striding": "uniform", "guidance": part}
        sampler = parse(SamplerSettings, content, CALL)
    labels = torch.zeros(4, dtype=torch.int64) if sampler.asks_for_classes else None

    def logits(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return z.flatten(1)[:, :10]

    def eps(z: torch.Tensor, t: torch.Tensor, *label: torch.Tensor) -> torch.Tensor:
        return z

    score = sampler.guidance.build(process, eps, Batching(4), labels, logits)
    with ShardNoise(0, 0, (4, 2, 8, 8), torch.device("cpu")) as noise:  # as in `psld sample`
        z = sample(process, sampler, score, process.prior(noise()), noise, silent=True)
    if not bool(z.isfinite().all()):
        raise UserError(f"{CALL}: NaN or infinity in samples from a Gaussian")
    sampler.check_evaluations(score.evaluations)
    yield f"samples from a Gaussian with PSLD and {score.evaluations} network evaluations"


def _source(part: Any, _network: str | None) -> Iterator[str]:
    from psld.data.preparation import as_tensors, read_picture

    images = part.open()
    for split in ("train", "test"):
        pairs, kind = getattr(images, split), "pictures"
        for i in range(min(len(pairs), 3)):
            first = pairs[i][0]() if callable(pairs[i][0]) else pairs[i][0]
            if isinstance(first, np.ndarray) and first.dtype.kind == "f":
                as_tensors(first[None], first.shape, f"{split}", [i])
                kind = f"tensors of {'×'.join(map(str, first.shape))}"
            else:
                read_picture(part, images, split, i)
        yield f"{len(pairs):,} {split} {kind}"


def _autoencoder(part: Any, _network: str | None) -> Iterator[str]:
    built = part.build(torch.device("cpu"))
    for name in ("decode", "encode"):
        yield f"{name}: {'yes' if hasattr(built, name) else 'no'}"


def _measuring(part: Any, _network: str | None) -> Iterator[str]:
    """Call a mask, a measure or an extractor on random data."""
    from psld.metrics.extraction import load_extractor
    from psld.metrics.features import Features, Reference

    if part.noun == "mask":
        known = np.asarray(part.draw(range(4), 8, None)).mean()
        yield f"known pixels in 4 images of 8×8: {known:.0%}"
    elif part.noun == "measure":
        samples, train, test = (Features(torch.randn(60, 4)) for _ in range(3))
        found = part.estimate(samples, Reference(train, test, None), samples.blocks(), "cpu")
        value = getattr(found, "estimate", found).value
        yield f"value for 60 samples with 4 features: {value:.4g}"
    elif not part.trains:
        images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
        features, _ = load_extractor(part)(images.float() if part.sees == "values" else images)
        yield f"{features.shape[1]} features per image of 3×32×32"


def _process(part: Any, network: str | None) -> Iterator[str]:
    """Compare a process with its differential equations, and train with it for one step."""
    from psld.commands.process_trials import trial_of_process
    from psld.diffusion.settings import ProcessSettings

    if part.noun == "beta":
        part = parse(ProcessSettings, {"kind": "vp-sde", "beta": part}, CALL)
        yield "tested as the schedule of the VP-SDE"
    yield from trial_of_process(part.build())
    yield from trial_in_training(part, network)


TRIALS: dict[str, Callable[[Any, str | None], Iterator[str]]] = {
    "sampler": _trial_in_sampling,
    "guidance": _trial_in_sampling,
    **dict.fromkeys(("process", "beta"), _process),
    "source": _source,
    "autoencoder": _autoencoder,
    **dict.fromkeys(("mask", "extractor", "measure"), _measuring),
}
"""The trial of each kind of part. Kinds of parts that are not listed belong to a training and use
`trial_in_training`."""
