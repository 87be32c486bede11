"""Distillation: a student learns in one network evaluation what a sampler of its teacher computes.

A deterministic sampler maps the noisy image y, at which it starts, to an image x. If it starts from
the initial distribution instead of pure noise, its path is short. A copy of the denoiser learns
the map at a single noise level, σ₀ of the initial distribution. This is knowledge distillation
(Luhman and Luhman, 2101.02388) with an initial distribution that is closer to the data than pure
noise. Imports no torch.
"""

from typing import TYPE_CHECKING

from pydantic import Field

from psld.config.reads import CellRead
from psld.diffusion.guidance import Guidance
from psld.models.objectives import Denoiser
from psld.utils.errors import UserError

if TYPE_CHECKING:
    from psld.sampling.pairs import Pairs

NEEDED = {
    "integrator": "multistep",
    "start": "mixture",
    "levels": None,
    "root": "straight",
    "eta": 0,
    "denoise": True,
}
"""The settings under which a sampled image depends on y only. With the root `flow`, with η > 0, or
without the final denoising, the image also depends on other noise."""


class Distilled(Denoiser):
    """‖D(y; σ₀) − x‖², averaged over the elements, for the pairs (y, x) of a cell.

    The training starts from the weights of the teacher.
    """

    kind: str = "distilled"

    uses = frozenset({"label_dropout"})
    of_data = Denoiser.of_data | {"level"}

    cell: CellRead
    """Samples of the teacher, drawn with sampler=few sampler.eta=0."""
    first: int = Field(default=0, ge=0)
    """The first shard of the training pairs. Shards with the same seed and index have the same
    noise. So skip as many shards as you evaluate of the student; otherwise the student is
    evaluated on noise that it was trained on."""

    def check_cell(self, sampler):
        wrong = [key for key, needed in NEEDED.items() if getattr(sampler, key, None) != needed]
        wrong += [] if _is_plain(sampler.guidance) else ["guidance"]
        if wrong:
            raise UserError(
                f"sampler.{wrong[0]}: {getattr(sampler, wrong[0], 'missing')} cannot be distilled; "
                "sample the cell with sampler=few sampler.eta=0, without guidance or with "
                "classifier-free guidance of scale 1"
            )

    def check(self, sampler, process):
        how = [getattr(sampler, key, None) for key in ("start", "steps")]
        if how not in (["mixture", 0], ["mixture", 1]) or not _is_plain(sampler.guidance):
            raise UserError(
                "sampler: a student accepts a single noise level, σ₀ of its initial distribution, "
                "and no guidance; use sampler=few sampler.steps=1, and for classes classifier-free "
                "guidance of scale 1"
            )

    def wrap(self, network, facts):
        from psld.sampling.pairs import Student

        return Student(network, facts.deviation, facts.law.low, facts.law.high)

    def noising(self, facts) -> "Pairs":
        from psld.sampling.pairs import Pairs

        return Pairs(self.cell, self.first, facts, self.check_cell)

    def loss(self, module, batch):
        x, seen = batch.noising.chosen(batch.t, batch.x0.device)
        return (module(*seen) - x).square().mean()

    def preview(self, facts, module, store, picture):
        return {}  # The usual preview starts from the prior.


def _is_plain(guidance: Guidance) -> bool:
    """Check if sampling uses the predictions of the network unchanged, with or without a class."""
    conditional = (
        guidance.asks_for_classes and guidance.evaluations == 1 and not guidance.needs_guide
    )
    return guidance.is_none or conditional
