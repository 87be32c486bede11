"""Load models, sample the shards of cells with guidance or inpainting, and distill students."""
