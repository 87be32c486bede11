"""What decides a cell's images, read from the manifests and digests of what they are made of."""

from psld.data.store import ImageStore
from psld.sampling.masks import masks_digest
from psld.sampling.settings import CellSettings, InpaintingGuidance
from psld.sampling.shards import ShardOrigin
from psld.training.manifest import GuideManifest, ModelManifest, read_manifest
from psld.utils.files import digest_of


def origin_of(cell: CellSettings) -> ShardOrigin:
    """The origin of shard 0 of a cell; other shards differ in their index alone."""
    guidance = cell.sampler.guidance
    inpaints = isinstance(guidance, InpaintingGuidance)
    return ShardOrigin(
        weights_sha256=read_manifest(cell.model, ModelManifest).weights_sha256,
        sampler_digest=digest_of(cell.sampler.model_dump(mode="json", exclude_none=True)),
        seed=cell.seed,
        index=0,
        size=cell.shard_size,
        guide_sha256=cell.guide and read_manifest(cell.guide, GuideManifest).weights_sha256,
        dataset_digest=ImageStore.open(cell.data).digest if inpaints else None,
        masks_digest=masks_digest(guidance.mask, cell.mnist) if inpaints else None,
    )
