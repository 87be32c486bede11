"""The command that tries a part of one's own before anything is trained, sampled or measured."""

import ast
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from psld.commands.main import entry_point
from psld.config.parts import check_read_again, naming, noun_of
from psld.config.settings import Settings, parse
from psld.utils.code import find_code
from psld.utils.errors import UserError


class CheckSettings(Settings, extra="allow"):
    """Settings of `psld check`; the others are those of the part."""

    part: str
    """The part, MODULE:CLASS."""


@entry_point("check", CheckSettings, bare="part", has_config=False)
def check(settings: CheckSettings) -> None:
    """Check a part of your own: that it is read, written and built, and does what its noun asks.

        psld check mynets:Mixer
        psld check mynets:Mixer width=128

    The first thing that is wrong is an error. It takes seconds, and writes nothing.
    """
    name = settings.part
    noun = noun_of(name)
    content = {noun.KEY: name, **(settings.model_extra or {})}
    part = parse(noun, content, f"psld check {name}")
    code = find_code(name.partition(":")[0])
    files = code.files if code else {}
    print(f"{name}: {noun.noun}; its code {str(part.code)[:12]}: {', '.join(files)}")
    for file, source in files.items():
        if _imports_torch(ast.parse(source)):
            late = "each job starts a second later; in a large grid, import it in build"
            print(f"{file}: imports torch at its top: {late}")
    check_read_again(part)
    print("what it writes is read as the same part")
    torch.manual_seed(0)
    if noun.noun not in TRIALS:
        print("not called: that needs a model or data")
        return
    for done in TRIALS[noun.noun](part):
        print(done)


def _imports_torch(tree: ast.Module) -> bool:
    names = [a.name for node in tree.body if isinstance(node, ast.Import) for a in node.names]
    names += [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)]
    return "torch" in {name.partition(".")[0] for name in names}


# -- what each noun asks ---------------------------------------------------------------------------


def _network(part: Any) -> Iterator[str]:
    from psld.networks.forward import build

    x, t = torch.randn(3, 2, 16, 16), torch.rand(3)
    try:
        network, gives = build(part, 2, 2, 16), "gives the same"
    except UserError as error:
        try:
            network, gives = build(part, 2, 3, 16, gives_logits=True), "gives logits, as a guide"
        except UserError:
            raise error from None
    weights = sum(each.numel() for each in network.parameters())
    yield f"takes 2×16×16 and {gives}; {weights:,} weights"
    with torch.no_grad():
        together, alone = network.eval()(x, t)[:1], network(x[:1], t[:1])
    if not torch.allclose(together, alone, rtol=1e-3, atol=1e-4):
        raise UserError(f"network: {part.kind}: an image depends on the others of its batch")
    yield "an image does not depend on the others of its batch"
    with naming("network", part, "backward"):
        network.train()(x, t).square().mean().backward()
    if not any(each.grad is not None for each in network.parameters()):
        raise UserError(f"network: {part.kind}: no weight gets a gradient")


def _with_state(part: Any) -> Iterator[str]:
    from psld.training.settings import LoopSettings
    from psld.training.state import AVERAGE, OPTIMIZER, TrainingState

    settings = parse(LoopSettings, {"steps": 22, "batch_size": 1, part.noun: part}, "training")
    state, resumed = (TrainingState(nn.Linear(3, 3), settings) for _ in range(2))

    def step(state: TrainingState, number: int) -> None:
        torch.manual_seed(number)
        state.network.zero_grad()
        state.network(torch.randn(4, 3)).square().mean().backward()
        with naming(OPTIMIZER, state.parts[OPTIMIZER], "step"):
            state.optimizer.step()
        with naming(AVERAGE, state.parts[AVERAGE], "update"), torch.no_grad():
            state.average.update(state.network)

    step(state, 0)
    step(state, 1)
    state.check()
    saved = {name: tensor.clone() for name, tensor in state.state_dict().items()}
    resumed.load_state_dict(saved)
    for number in range(2, 22):  # Something may be counted.
        step(state, number)
        step(resumed, number)
    for kind, now, then in (
        ("optimizer", state.network, resumed.network),
        ("average", state.average.network, resumed.average.network),
    ):
        pairs = zip(now.parameters(), then.parameters(), strict=True)
        if not all(torch.equal(*pair) for pair in pairs):
            own = state.parts[f"training.{kind}"]
            lacks = "a resumed training differs, so something is not in its state_dict()"
            raise UserError(f"training.{kind}: {own.kind}: {lacks}")
    done = {"optimizer": "takes steps", "average": "averages a network"}[part.noun]
    yield f"{done}, and a checkpoint can hold its state"


def _schedule(part: Any) -> Iterator[str]:
    from psld.training.loop import check_schedule
    from psld.training.settings import LoopSettings

    recipe = {"steps": 1000, "batch_size": 1, "schedule": part}
    check_schedule(parse(LoopSettings, recipe, "training"))
    factors = ", ".join(f"{part.factor(step, 1000):.3g}" for step in (0, 1, 500, 999))
    yield f"its factors at steps 0, 1, 500 and 999 of 1,000: {factors}"


def _sampler(part: Any) -> Iterator[str]:
    from psld.diffusion.loop import sample
    from psld.diffusion.score import NetworkScore
    from psld.diffusion.settings import PSLDSettings
    from psld.utils.randomness import ShardNoise

    recipe = {"kind": "psld", "gamma": 0.02, "mass_inverse": 4, "kappa": 0.04}
    process = parse(PSLDSettings, recipe, "process").build()
    score = NetworkScore(lambda z, t: z, batch_size=4)
    with ShardNoise(0, 0, (4, 2, 8, 8), torch.device("cpu")) as noise:  # as in `psld sample`
        z = sample(process, part, score, process.prior(noise()), noise, silent=True)
    if not bool(z.isfinite().all()):
        raise UserError(f"sampler: {part.integrator}: NaN or infinity in samples of one Gaussian")
    without = {"guidance": type(part).model_fields["guidance"].default}
    part.model_copy(update=without).check_evaluations(score.evaluations)
    yield f"samples one Gaussian as PSLD: {score.evaluations} evaluations"


def _source(part: Any) -> Iterator[str]:
    from psld.data.preparation import open_source, read_picture

    images = open_source(part)
    sizes = {"train": len(images.train), "test": len(images.test)}
    for split, size in sizes.items():
        for i in range(min(size, 3)):
            read_picture(part, images, split, i)
    yield f"has {sizes['train']:,} pictures for training, {sizes['test']:,} for testing"


def _extractor(part: Any) -> Iterator[str]:
    from psld.metrics.extraction import load_extractor

    if part.trains:
        yield "not called: it is trained on a dataset"
        return
    features, _ = load_extractor(part)(torch.zeros(4, 3, 32, 32, dtype=torch.uint8))
    yield f"gives {features.shape[1]} features of an image"


TRIALS: dict[str, Callable[[Any], Iterator[str]]] = {
    "network": _network,
    "optimizer": _with_state,
    "schedule": _schedule,
    "average": _with_state,
    "sampler": _sampler,
    "source": _source,
    "extractor": _extractor,
}
