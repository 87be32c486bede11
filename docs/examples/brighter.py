r"""A guidance, which changes the score of a sampler: `Brighter` makes images brighter.

    psld sample model=models/demo/psld-0.02 guidance@sampler.guidance=brighter:Brighter \
        sampler.guidance.strength=2 sampler.steps=20 shard_size=16 output=samples/bright

In Python: model.sample(16, guidance={"kind": "brighter:Brighter", "strength": 2.0}).

A guidance can also use a guide, evaluate the network twice, or use the classes of the samples
(psld/diffusion/guidance.py).
"""

from psld.parts import Guidance


class Brighter(Guidance):
    """Add the constant `strength` to the score of each pixel."""

    strength: float = 1.0

    def build(self, process, eps, batching, labels, logits):
        from psld.diffusion.score import GuidedScore, NetworkScore

        def gradient(z, t):  # the first channels of z are the image, then the momentum
            pull = z.new_zeros(z.shape)
            pull[:, : z.shape[1] // process.blocks] = 1
            return pull

        return GuidedScore(NetworkScore(eps, batching), gradient, self.strength)
