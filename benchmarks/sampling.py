"""Compare the time of sampling steps with the time of bare network evaluations.

python -m benchmarks.sampling
"""

import torch

from benchmarks.settings import compose_model
from benchmarks.timing import compare
from psld.diffusion.loop import sample
from psld.diffusion.samplers import EMSettings, SSCSSettings
from psld.diffusion.score import NetworkScore
from psld.models.build import build

IMAGES, STEPS = 250, 10


def main() -> None:
    model = compose_model([], "benchmarks.sampling")
    process = model.process.build()
    network = build(model, process).eval()
    z, t = torch.randn(IMAGES, 2, 8, 8), torch.rand(IMAGES)

    @torch.no_grad()
    def bare() -> None:
        for _ in range(STEPS):
            network(z, t)

    for kind, integrator in ((EMSettings, "em"), (SSCSSettings, "sscs")):
        settings = kind(integrator=integrator, striding="uniform", steps=STEPS)

        def run(settings: EMSettings | SSCSSettings = settings) -> None:
            sample(process, settings, NetworkScore(network, IMAGES), z, torch.randn_like)

        compare(f"{integrator}, {STEPS} steps against {STEPS} network evaluations", run, bare)


if __name__ == "__main__":
    main()
