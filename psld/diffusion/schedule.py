"""The noise schedule β(t)."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LinearBeta:
    """The schedule β(t) = β₀ + t (β₁ − β₀) on t ∈ [0, 1]; constant if β₀ = β₁."""

    beta_min: float
    beta_max: float

    def __call__(self, t: Tensor) -> Tensor:
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def integral(self, t: Tensor) -> Tensor:
        """Return B(t) = ∫₀ᵗ β(s) ds."""
        return self.beta_min * t + 0.5 * t**2 * (self.beta_max - self.beta_min)
