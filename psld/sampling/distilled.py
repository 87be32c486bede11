"""One evaluation: the objective of a student, which learns where a sampler of its teacher ends.

From a start near the data, the way of a deterministic sampler is short: the image x that it reaches
is a function of the noisy image y at which it began. A copy of the denoiser learns this function at
one noise level, σ₀ of the start. This is knowledge distillation (Luhman and Luhman, 2101.02388)
from a nearer start than pure noise. No torch.
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
"""A sampler whose image is a function of y alone. With the root `flow`, with η > 0, or without the
last prediction, it is one of other noise, too."""


class Distilled(Denoiser):
    """‖D(y; σ₀) − x‖², a mean of elements, over the pairs of a cell. It starts from its teacher."""

    kind: str = "distilled"

    uses = frozenset({"label_dropout"})
    of_data = Denoiser.of_data | {"level"}

    cell: CellRead
    """Samples of the teacher, by sampler=few sampler.eta=0."""
    first: int = Field(default=0, ge=0)
    """The first shard that is learned. Equal seeds and numbers of shards have equal noise, so leave
    out as many as are measured of the student: else these are starts that it has seen."""

    def check_cell(self, sampler):
        wrong = [key for key, needed in NEEDED.items() if getattr(sampler, key, None) != needed]
        wrong += [] if _is_plain(sampler.guidance) else ["guidance"]
        if wrong:
            raise UserError(
                f"sampler.{wrong[0]} is {getattr(sampler, wrong[0], 'missing')}, and a student "
                "learns from images that their start decides: sample them with sampler=few "
                "sampler.eta=0, without guidance, or classifier-free with scale=1"
            )

    def check(self, sampler, process):
        how = [getattr(sampler, key, None) for key in ("start", "steps")]
        if how not in (["mixture", 0], ["mixture", 1]) or not _is_plain(sampler.guidance):
            raise UserError(
                "sampler: a student knows one noise level, that of its start, and no guidance; use "
                "sampler=few sampler.steps=1, with classes classifier-free guidance of scale 1"
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
    """Check if the samples are those of the network, without a class or with its own of one."""
    own = guidance.asks_for_classes and guidance.evaluations == 1 and not guidance.needs_guide
    return guidance.is_none or own
