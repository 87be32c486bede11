"""A small autoencoder of pictures, whose latents have a quarter of their height and width.

    python autoencoder.py data/mine.h5 autoencoder.safetensors

This command trains the autoencoder on a prepared dataset, in a minute or two on one core for 32×32.
configs/dataset/latents.yaml names the file of the weights. If you train the autoencoder again,
Snakemake recomputes all files that depend on its weights. A pretrained autoencoder is used in the
same way: `build` loads it, and returns an object with the methods `encode` and `decode`.
"""

import sys

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import mse_loss

from psld.data.store import ImageStore
from psld.data.units import BYTES
from psld.parts import Autoencoder, WeightsFile

STEPS, BATCH = 600, 64


class Small(Autoencoder):
    """An autoencoder with a few convolutions."""

    weights: WeightsFile
    """The file that the training wrote."""

    def build(self, device):
        weights = load_file(self.weights)
        network = Net(
            colors=len(weights["decoder.4.bias"]), channels=len(weights["encoder.4.bias"])
        )
        network.load_state_dict(weights)
        return network.eval().to(device)


class Net(nn.Module):
    def __init__(self, colors, channels=4, width=16):
        super().__init__()
        half = {"kernel_size": 4, "stride": 2, "padding": 1}
        self.encoder = nn.Sequential(
            nn.Conv2d(colors, width, **half),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, **half),
            nn.SiLU(),
            nn.Conv2d(2 * width, channels, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, 2 * width, 3, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(2 * width, width, **half),
            nn.SiLU(),
            nn.ConvTranspose2d(width, colors, **half),
        )

    def encode(self, pictures):
        return self.encoder(BYTES.seen(pictures))

    def decode(self, latents):
        return BYTES.stored(self.decoder(latents))


def train(pictures, steps=STEPS):
    """Train on pictures, uint8 N×C×H×W. Noise on the latents makes the decoder smooth."""
    torch.manual_seed(0)
    network = Net(colors=pictures.shape[1])
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for step in range(steps):
        x = BYTES.seen(torch.from_numpy(pictures[torch.randint(len(pictures), (BATCH,)).numpy()]))
        latents = network.encoder(x)
        decoded = network.decoder(latents + 0.1 * torch.randn_like(latents))
        loss = mse_loss(decoded, x) + 1e-3 * latents.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 99:
            print(f"step {step + 1}/{steps}: loss {loss:.4f}", flush=True)
    return network


if __name__ == "__main__":
    data, output = sys.argv[1:]
    trained = train(ImageStore.open(data).images("train"))
    save_file(trained.state_dict(), output)
    print(f"wrote {output}")
