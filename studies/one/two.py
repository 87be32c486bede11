"""A student of two noise levels: an objective of this study, a part of one's own."""

from pydantic import Field

from psld.sampling.distilled import Distilled
from psld.utils.errors import UserError


class Twice(Distilled):
    """‖D(y_σ; σ) − x‖² over the pairs (y, x) of a cell, as `Distilled`, at σ₀ and σ₁ = σ₀ / fall.

    y_σ = x + (σ / σ₀) (y − x) is where a step without noise leads from y at σ₀ to σ, if the first
    evaluation finds x: the straight way of a pair (Liu et al., 2209.03003). Of each micro-batch,
    every other pair has σ₁, so micro-batches of one learn σ₀ alone.
    """

    fall: float = Field(default=3.0, gt=1)
    """That of the sampler, few without noise and with two evaluations."""

    def check(self, sampler, process):
        if getattr(sampler, "steps", None) != 2:
            super().check(sampler, process)  # once, at σ₀
            return
        needed = {"integrator": "multistep", "start": "mixture", "levels": None, "denoise": True}
        needed |= {"eta": 0.0, "fall": self.fall}
        asked = {key: getattr(sampler, key, None) for key in needed}
        if asked != needed or not sampler.guidance.is_none:
            how = f"sampler.eta=0 sampler.fall={self.fall:g}"
            raise UserError(f"sampler: twice, a student of two levels needs sampler=few {how}")

    def wrap(self, network, facts):
        from psld.sampling.pairs import Student

        class OfTwoLevels(Student):
            fall = self.fall
            sigma_min = property(lambda self: float(self.level) / self.fall, lambda *_: None)

        return OfTwoLevels(network, facts.deviation, facts.law.low, facts.law.high)

    def loss(self, module, batch):
        x, (y, sigma, *labels) = batch.noising.chosen(batch.t, batch.x0.device)
        share = sigma / sigma[0]
        share[1::2] /= self.fall  # every other pair
        seen = x + share[:, None, None, None] * (y - x)
        return (module(seen, share * sigma, *labels) - x).square().mean()
