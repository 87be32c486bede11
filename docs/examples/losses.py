"""An objective, which says what the network sees, gives and minimizes: here only the loss is new.

    psld train training.objective=losses:Huber training.objective.delta=0.5 name=huber

`Objective` predicts the noise of a process's states, `Denoiser` an image, and `Guide`, for
`psld train_guide`, a class. A loss with weights of its own overrides `wrap`.
"""

from psld.parts import Objective


class Huber(Objective):
    """The Huber loss of the predicted noise."""

    delta: float = 1.0
    """The error at which the loss becomes linear."""

    def loss(self, module, batch):
        from torch.nn.functional import huber_loss

        z, t = batch.noisy()
        return huber_loss(module(z, t), batch.target, delta=self.delta)
