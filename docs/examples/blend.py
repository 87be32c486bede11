r"""A sampler: Euler steps between the probability-flow ODE and the reverse SDE.

    psld sample model=models/demo/psld-0.02 sampler=blend:Blend sampler.striding=quadratic \
        sampler.steps=50 sampler.noise=0.7 shard_size=64 output=samples/blend npz=mine.npz

In Python: model.sample(64, sampler="blend:Blend", striding="quadratic", steps=50, noise=0.7).

`build` returns an object with the attributes of `Integrator` (psld/diffusion/integrators.py). The
shipped ones step by z ← P z + W s + N ξ, with the state z, the score s, the noise ξ, and matrices
P, W and N that are tabulated for the whole time grid. This one steps along
dz = (−A z + ½ (1 + ν²) G Gᵀ s) ds + ν G dw. With momentum and a ν well below 0.5, these steps make
images too wide: fifty of them at ν = 0 by a third.

- `steps` is the number of network evaluations. An integrator with two evaluations in a step, as
  Heun's method has, overrides `grid_steps`: `(self.steps - self.denoise + 1) // 2`.
- One that chooses its steps extends `Sampler`, as `RK45Settings` does.
- `python -m benchmarks.exact --sampler NAME` measures error and order on data whose score is known
  (docs/notes/few-evaluations.md).
"""

from psld.parts import TimeGridSampler


class Blend(TimeGridSampler):
    """Euler steps between the probability-flow ODE and the reverse SDE."""

    noise: float = 0.5
    """ν: 0 is the ODE, 1 is Euler–Maruyama."""

    def build(self, process, device, inpainting=None):
        from psld.diffusion.integrators import EulerMaruyama

        steps = EulerMaruyama(process, self.time_grid(process), device)
        steps.weight = (1 + self.noise**2) / 2 * steps.weight
        steps.noise = self.noise * steps.noise
        return steps
