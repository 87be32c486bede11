"""Forward processes: linear SDEs built by the recipe, with their losses and samplers.

Instances are phase space Langevin diffusion (PSLD), critically damped Langevin diffusion (CLD) and
the variance-preserving SDE (VP-SDE).
"""
