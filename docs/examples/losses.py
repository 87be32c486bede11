"""An objective defines what a network sees, predicts and minimizes. `Huber` only changes the loss.

    psld train training.objective=losses:Huber training.objective.delta=0.5 name=huber

With `Objective`, the network predicts the noise in the states of a process. With `Denoiser`, it
predicts the image; with `Guide`, for `psld train_guide`, it predicts the class. A loss with
trainable weights overrides `wrap`.
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
