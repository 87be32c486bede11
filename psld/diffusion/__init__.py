"""Forward processes (linear SDEs of the paper's recipe), their losses and their samplers.

The recipe includes phase space Langevin diffusion (PSLD), critically damped Langevin diffusion
(CLD) and the variance-preserving SDE (VP-SDE).
"""
