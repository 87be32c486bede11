r"""A sampler: Euler steps between the probability-flow ODE and the reverse SDE.

    psld sample model=models/demo/psld-0.02 sampler=blend:Blend sampler.striding=quadratic \
        sampler.steps=50 sampler.strength=0.7 shard_size=64 output=samples/blend npz=mine.npz

In Python: model.sample(64, sampler="blend:Blend", striding="quadratic", steps=50, strength=0.7).

`build` returns an object with the attributes of `Integrator` (psld/diffusion/integrators.py). The
steps of the shipped integrators are z ← P z + W s + N ξ, with the state z, the score s, the noise
ξ, and matrices P, W and N that are tabulated for the whole time grid. This sampler integrates dz =
(−A z + ½ (1 + ν²) G Gᵀ s) ds + ν G dw. For processes with momentum and ν well below 0.5, the
distribution of the images becomes too wide, by a third after 50 steps at ν = 0.

- `steps` is the number of network evaluations. An integrator with two evaluations per step, such as
  Heun's method, overrides `grid_steps`: `(self.steps - self.denoise + 1) // 2`.
- An integrator with adaptive steps extends `Sampler`, as `RK45Settings` does.
- `python -m benchmarks.exact --sampler NAME` measures its error and order on data whose score is
  known (docs/notes/few-evaluations.md).
"""

from psld.parts import TimeGridSampler


class Blend(TimeGridSampler):
    """Euler steps between the probability-flow ODE and the reverse SDE."""

    strength: float = 0.5
    """ν: 0 is the ODE, 1 is Euler–Maruyama."""

    def build(self, process, device, inpainting=None):
        from psld.diffusion.integrators import EulerMaruyama

        steps = EulerMaruyama(process, self.time_grid(process), device)
        steps.weight = (1 + self.strength**2) / 2 * steps.weight
        steps.noise = self.strength * steps.noise
        return steps
