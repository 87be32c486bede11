"""Samplers: time grid x integrator x guidance, in one loop; shards of images."""
