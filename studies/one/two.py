"""A custom objective of this study: a student of two noise levels."""

from pydantic import Field

from psld.sampling.distilled import Distilled
from psld.utils.errors import UserError


class Twice(Distilled):
    """The loss ‖D(y_σ; σ) − x‖² over the pairs (y, x) of a cell, at σ₀ and σ₁ = σ₀ / fall.

    y_σ = x + (σ / σ₀) (y − x) lies on the straight line between the two images of a pair, so this
    loss is rectified flow on the teacher's pairs (Liu et al., 2209.03003). If the first evaluation
    predicts x, a step without noise leads from y at σ₀ to y_σ. Every second pair of a micro-batch
    is trained at σ₁, the other pairs at σ₀. With micro-batches of one image, the student therefore
    learns only σ₀. `Distilled` is the loss at σ₀ alone (Luhman and Luhman, 2101.02388).
    """

    fall: float = Field(default=3.0, gt=1)
    """σ₀ / σ₁. The sampler (`few` with eta=0 and two evaluations) must have the same `fall`."""

    def check(self, sampler, process):
        if getattr(sampler, "steps", None) != 2:
            super().check(sampler, process)  # one evaluation, at σ₀
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
        share[1::2] /= self.fall  # every second pair has σ₁
        seen = x + share[:, None, None, None] * (y - x)
        return (module(seen, share * sigma, *labels) - x).square().mean()
