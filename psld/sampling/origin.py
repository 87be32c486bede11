"""What decides a cell's images, read from the manifests and digests of what they are made of."""

from psld.data.store import ImageStore
from psld.utils.files import digest_of
from psld.training.model import read_manifest
from psld.sampling.masks import masks_digest
from psld.sampling.settings import CellSettings, InpaintingGuidance
from psld.sampling.shards import ShardOrigin


def origin_of(cell: CellSettings, shard: int) -> ShardOrigin:
    """The origin of one shard of a cell: what sampling writes into it and evaluation expects."""
    guidance = cell.sampler.guidance
    inpaints = isinstance(guidance, InpaintingGuidance)
    return ShardOrigin(
        weights_sha256=read_manifest(cell.model, "model")["weights_sha256"],
        sampler_digest=digest_of(cell.sampler.model_dump(mode="json", exclude_none=True)),
        seed=cell.seed,
        index=shard,
        size=cell.shard_size,
        guide_sha256=cell.guide
        and read_manifest(cell.guide, "guide")["weights_sha256"],
        dataset_digest=ImageStore.open(cell.data).digest if inpaints else None,
        masks_digest=masks_digest(guidance.mask, cell.mnist) if inpaints else None,
    )
