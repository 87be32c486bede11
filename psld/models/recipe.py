"""Optimizers, schedules, averages and loggers: the parts of a training's loop. No torch."""

from collections.abc import Callable
from math import cos, pi, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import Field

from psld.config.parts import Part

if TYPE_CHECKING:
    from torch import nn, optim


class Optimizer(Part):
    """What moves the weights along their gradient.

    Checkpoints hold its whole `state_dict()`: what `torch.load` reads with `weights_only`, such as
    tensors of any type, numbers, texts, lists, tuples and dictionaries. After the first step,
    another optimizer of `build` takes it back on trial.
    """

    noun = "optimizer"

    kind: str = "adam"

    def build(self, parameters: "list[nn.Parameter]") -> "optim.Optimizer":
        """Build the optimizer of all parameters, which are on the training's device.

        The loop sets `lr` of all its `param_groups` before each step, to
        `training.learning_rate` × warm-up × schedule. Gradients are clipped by then.
        """
        raise NotImplementedError


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015, Algorithm 1)."""

    betas: tuple[float, float] = (0.9, 0.999)
    """β₁ and β₂: decays of the averages of the gradient and of its square, per step."""
    eps: float = Field(default=1e-8, gt=0)
    """ε: what is added to the root of the average square."""

    def build(self, parameters):
        from torch import optim

        return optim.Adam(parameters, betas=self.betas, eps=self.eps, fused=True)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019, Algorithm 2)."""

    kind: str = "adamw"

    weight_decay: float = Field(default=0.01, ge=0)
    """λ: each step first takes the share `lr` · λ off the weights."""

    def build(self, parameters):
        from torch import optim

        options = {"betas": self.betas, "eps": self.eps, "weight_decay": self.weight_decay}
        return optim.AdamW(parameters, **options, fused=True)


class Schedule(Part):
    """The course of the learning rate, apart from its warm-up."""

    noun = "schedule"

    kind: str = "constant"

    def factor(self, step: int, steps: int) -> float:
        """Return the factor of `training.learning_rate` in a step, from 0 to `steps` − 1.

        It is finite and not negative, and depends on nothing else: a resumed training asks again.
        """
        raise NotImplementedError


class Constant(Schedule):
    """The factor 1."""

    def factor(self, step, steps):
        return 1.0


class Cosine(Schedule):
    """From 1 down to `least`, least + (1 − least) (1 + cos(π step / steps)) / 2.

    One period of SGDR (Loshchilov and Hutter, 2017, Eq. 5).
    """

    kind: str = "cosine"

    least: float = Field(default=0.0, ge=0, le=1)
    """The factor at the end."""

    def factor(self, step, steps):
        return self.least + (1 - self.least) * (1 + cos(pi * step / steps)) / 2


class InverseSqrt(Schedule):
    """1 / √max(step / reference_steps, 1), the decay of EDM2 (Karras et al., 2024, Eq. 67)."""

    kind: str = "inverse-sqrt"

    reference_steps: int = Field(default=70_000, ge=1)
    """t_ref: the steps with the factor 1; EDM2 has 70,000 on ImageNet-512."""

    def factor(self, step, steps):
        return 1 / sqrt(max(step / self.reference_steps, 1))


class Averaging(Protocol):
    """The average of a network in training.

    If it has more than its network, such as a count or a second average, `state_dict()` returns it
    for checkpoints, and `load_state_dict(state)` takes it back, with tensors on the CPU.
    """

    network: "nn.Module"
    """A copy of the network, with averaged weights and buffers: it is previewed and exported."""

    def update(self, network: "nn.Module") -> None:
        """Take in the weights and buffers after a step. Called without gradients."""
        ...


class Average(Part):
    """The moving average of a network's weights and buffers."""

    noun = "average"

    kind: str = "ema"

    def build(self, network: "nn.Module") -> Averaging:
        """Build the average of a network before its first step, or before a checkpoint is loaded.

        It works on a copy, `copy.deepcopy(network)`.
        """
        raise NotImplementedError


class ExponentialAverage(Average):
    """θ̄ ← d θ̄ + (1 − d) θ after each step; buffers are those of the last step."""

    decay: float = Field(default=0.9999, ge=0, lt=1)
    """d; 0 keeps the last weights."""

    def build(self, network):
        from psld.networks.forward import EMA

        return EMA(network, self.decay)


def with_one_average(content: dict[str, Any]) -> dict[str, Any]:
    """Return a training's content in which `ema_decay` alone stands for the average `ema`.

    It is null next to any other `average`.
    """
    average = content.get("average")
    if average is None:
        return content
    given = {"kind": average} if isinstance(average, str) else average
    if isinstance(given, Average) and given.code:
        return content | {"ema_decay": None}
    given = given.model_dump() if isinstance(given, Average) else given
    options = {"kind": "ema"} | given if isinstance(given, dict) else {}
    if options.pop("kind", None) != "ema" or options.keys() - {"decay"}:
        return content | {"ema_decay": None}
    decay = options.get("decay", ExponentialAverage().decay)
    return content | {"average": None, "ema_decay": decay}


class Logger(Part):
    """A destination of what a training logs, besides its history and wandb."""

    noun = "logger"

    kind: str

    def start(
        self, run: Path, settings: Any, from_step: int
    ) -> Callable[[dict[str, float] | None], object]:
        """Begin to log; return a function of each entry of the history, and last of None.

        An entry has `step`, `time` (Unix, in seconds), `loss`, `grad_norm`, `learning_rate`, …, as
        in history.json. They come every `log_every` steps, at most every two seconds, together. A
        training that is killed and resumed logs no step twice. Only the leading rank logs.

        All calls are made in a thread, for which the training does not wait. An exception, or more
        than five seconds in one call, ends the logger with a printed line.

        Args:
            run: the run directory; previews/STEP.png are pictures.
            settings: of the training (`psld.training.settings.RunSettings`).
            from_step: the last step that was logged before; 0 for a new training.
        """
        raise NotImplementedError
