"""Optimizers, schedules, averages and loggers: the parts of the training loop. Imports no torch."""

from collections.abc import Callable
from math import cos, pi, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import Field

from psld.config.parts import Part

if TYPE_CHECKING:
    from torch import nn, optim


class Optimizer(Part):
    """An optimizer of the weights.

    Checkpoints contain the complete `state_dict()` of the optimizer. The `state_dict()` may hold
    all types that `torch.load` reads with `weights_only`: tensors of any dtype, numbers, strings,
    lists, tuples and dictionaries. After the first step, a newly built optimizer loads the
    `state_dict()` as a test.
    """

    noun = "optimizer"

    kind: str = "adam"

    def build(self, parameters: "list[nn.Parameter]") -> "optim.Optimizer":
        """Build the optimizer for all parameters, which are on the device of the training.

        Before each step, the training loop clips the gradients and sets `lr` of all `param_groups`
        to `training.learning_rate`, multiplied by the factors of the warm-up and of the schedule.
        """
        raise NotImplementedError


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015, Algorithm 1)."""

    betas: tuple[float, float] = (0.9, 0.999)
    """β₁ and β₂: decay rates of the moving averages of the gradient and of its square, per step."""
    eps: float = Field(default=1e-8, gt=0)
    """ε: added to the square root of the average squared gradient."""

    def build(self, parameters):
        from torch import optim

        return optim.Adam(parameters, betas=self.betas, eps=self.eps, fused=True)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019, Algorithm 2)."""

    kind: str = "adamw"

    weight_decay: float = Field(default=0.01, ge=0)
    """λ: each step first multiplies the weights by 1 − `lr` · λ."""

    def build(self, parameters):
        from torch import optim

        options = {"betas": self.betas, "eps": self.eps, "weight_decay": self.weight_decay}
        return optim.AdamW(parameters, **options, fused=True)


class Schedule(Part):
    """The learning rate as a function of the step, apart from the warm-up."""

    noun = "schedule"

    kind: str = "constant"

    def factor(self, step: int, steps: int) -> float:
        """Return the factor by which `training.learning_rate` is multiplied in a step.

        The factor must be finite and not negative. The factor may depend only on the arguments and
        the settings, because a resumed training computes it again.

        Args:
            step: from 0 to `steps` − 1.
            steps: the number of steps of the training.
        """
        raise NotImplementedError


class Constant(Schedule):
    """The factor 1."""

    def factor(self, step, steps):
        return 1.0


class Cosine(Schedule):
    """Cosine decay from 1 to `least`: least + (1 − least) (1 + cos(π step / steps)) / 2.

    This is one period of SGDR (Loshchilov and Hutter, 2017, Eq. 5).
    """

    kind: str = "cosine"

    least: float = Field(default=0.0, ge=0, le=1)
    """The factor at the end of the training."""

    def factor(self, step, steps):
        return self.least + (1 - self.least) * (1 + cos(pi * step / steps)) / 2


class InverseSqrt(Schedule):
    """1 / √max(step / reference_steps, 1), the decay of EDM2 (Karras et al., 2024, Eq. 67)."""

    kind: str = "inverse-sqrt"

    reference_steps: int = Field(default=70_000, ge=1)
    """t_ref: the number of steps before the decay starts; EDM2 uses 70,000 on ImageNet-512."""

    def factor(self, step, steps):
        return 1 / sqrt(max(step / self.reference_steps, 1))


class Averaging(Protocol):
    """The average of a network during training.

    An average with additional state, such as a counter or a second average, needs two methods for
    checkpoints: `state_dict()` returns the additional state, and `load_state_dict(state)` restores
    this state from tensors on the CPU.
    """

    network: "nn.Module"
    """A copy of the network with averaged weights and buffers, used for previews and export."""

    def update(self, network: "nn.Module") -> None:
        """Update the average with the network after a step. Called without gradients."""
        ...


class Average(Part):
    """The moving average of a network's weights and buffers."""

    noun = "average"

    kind: str = "ema"

    def build(self, network: "nn.Module") -> Averaging:
        """Build the average of a network, before the first step or before a checkpoint is loaded.

        The average must hold a copy of the network, `copy.deepcopy(network)`.
        """
        raise NotImplementedError


class ExponentialAverage(Average):
    """θ̄ ← d θ̄ + (1 − d) θ after each step; buffers are copied without averaging."""

    decay: float = Field(default=0.9999, ge=0, lt=1)
    """The decay d per step; with d = 0, the average equals the last weights."""

    def build(self, network):
        from psld.networks.forward import EMA

        return EMA(network, self.decay)


def with_one_average(content: dict[str, Any]) -> dict[str, Any]:
    """Return training settings in which the average `ema` is written as `ema_decay`.

    If the settings have another `average`, `ema_decay` becomes null.
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
    """An additional destination of the training log, besides history.json and wandb."""

    noun = "logger"

    kind: str

    def start(
        self, run: Path, settings: Any, from_step: int
    ) -> Callable[[dict[str, float] | None], object]:
        """Start to log, and return the function that receives the entries of the history.

        The function is called with each entry and, at the end, with None. The
        keys of an entry are the same as in history.json: `step`, `time` (Unix time in seconds),
        `loss`, `grad_norm`, `learning_rate`, …. There is an entry every `log_every` steps. Entries
        arrive in groups, at most one group every two seconds. A training that is killed and resumed
        logs no step twice. Only rank 0 logs.

        All calls are made in a separate thread, and the training does not wait for them. If a call
        raises an exception or takes more than five seconds, the logger is stopped and a message is
        printed.

        Args:
            run: the run directory, which contains the pictures of previews, previews/STEP.png.
            settings: the settings of the training (`psld.training.settings.RunSettings`).
            from_step: the last step that was already logged; 0 for a new training.
        """
        raise NotImplementedError
