"""Phase Space Langevin Diffusion (PSLD): processes, networks, training, sampling, evaluation.

Reference: K. Pandey and S. Mandt, "A Complete Recipe for Diffusion Generative Models", ICCV 2023.
"""

__version__ = "0.1.0"
