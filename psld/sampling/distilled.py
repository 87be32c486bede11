"""Distillation: a student learns to compute the result of its teacher's sampler in one evaluation.

A deterministic sampler maps the noisy image y, at which it starts, to an image x. The path from y
to x is short if y is drawn from the initial distribution instead of pure noise. A copy of the
denoiser, the student, learns the map from y to x at a single noise level, σ₀ of the initial
distribution. This method is the knowledge distillation of Luhman and Luhman (2101.02388), with an
initial distribution that is closer to the data than pure noise. Imports no torch.
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
"""The settings with which a sampled image x depends only on y. With the root `flow`, with η > 0, or
without the final denoising, x also depends on other noise."""


class Distilled(Denoiser):
    """The loss ‖D(y; σ₀) − x‖², averaged over the elements, for the pairs (y, x) of a cell.

    The training starts from the weights of the teacher.
    """

    kind: str = "distilled"

    uses = frozenset({"label_dropout"})
    of_data = Denoiser.of_data | {"level"}

    cell: CellRead
    """Samples of the teacher, drawn with sampler=few sampler.eta=0."""
    first: int = Field(default=0, ge=0)
    """Index of the first shard with training pairs. Shards with the same seed and index have the
    same noise. Skip as many shards as you will evaluate of the student; otherwise the student is
    evaluated on the noise of its training."""

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
        return {}  # The preview of a denoiser starts from the prior, unlike a student.


def _is_plain(guidance: Guidance) -> bool:
    """Check that the guidance uses the predictions of the network unchanged.

    The network may get a class.
    """
    conditional = (
        guidance.asks_for_classes and guidance.evaluations == 1 and not guidance.needs_guide
    )
    return guidance.is_none or conditional
