"""The options of NCSN++ and of its guide; the official name of each is in parentheses."""

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from psld.config.settings import Settings


class EncoderOptions(Settings):
    """Options that NCSN++ and its guide share."""

    in_bfloat16: ClassVar[bool] = True

    base_channels: int = Field(ge=8, multiple_of=4)
    """Channels of the first level (nf)."""
    channel_multipliers: tuple[PositiveInt, ...] = Field(min_length=1)
    """Channels of each level divided by `base_channels`; each level halves the image (ch_mult)."""
    blocks_per_level: PositiveInt
    """Residual blocks per level on the way down; the way up has one more (num_res_blocks)."""
    attention_resolutions: tuple[PositiveInt, ...] = ()
    """Image sizes, in pixels, at which each block is followed by attention; others are ignored.
    The middle of the network always has attention (attn_resolutions)."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Probability that a value of a residual branch is dropped in training (dropout)."""
    block: Literal["biggan", "ddpm"] = "biggan"
    """`biggan`: residual blocks resample; `ddpm`: separate layers resample (resblock_type)."""
    embedding: Literal["positional", "fourier"] = "positional"
    """Sinusoids of t, or random Fourier features of log t (embedding_type)."""
    fourier_scale: float = Field(default=16.0, gt=0)
    """Standard deviation of the frequencies of the Fourier features (fourier_scale)."""
    resampling: Literal["plain", "fir"] = "plain"
    """Nearest neighbor and averages of 2×2, or a FIR filter both ways (fir)."""
    fir_kernel: tuple[float, ...] = Field(default=(1, 3, 3, 1), min_length=2)
    """The FIR filter in one dimension; it is normalized to sum 1 (fir_kernel)."""
    resample_with_conv: bool = True
    """Add a convolution to the resampling layers between `ddpm` blocks (resamp_with_conv)."""
    skip_rescale: bool = True
    """Divide each sum of shortcut and branch by √2, which keeps the variance (skip_rescale)."""
    progressive_input: Literal["none", "input_skip", "residual"] = "none"
    """The use of a pyramid of the downsampled input on the way down (progressive_input)."""
    progressive_combine: Literal["sum", "cat"] = "sum"
    """`input_skip` adds the pyramid, or appends it as channels (progressive_combine)."""
    init_scale: float = Field(default=0.0, ge=0)
    """Scale of the initial weights of each branch's last layer; 0 means 1e-10 (init_scale)."""

    @property
    def channels(self) -> list[int]:
        return [self.base_channels * multiplier for multiplier in self.channel_multipliers]

    @property
    def takes_logarithm(self):
        return self.embedding == "fourier"

    def check_image_size(self, size):
        halvings = len(self.channel_multipliers) - 1
        if size % 2**halvings:
            raise ValueError(
                f"dataset.image_size {size} cannot be halved {halvings} times, as the "
                f"{halvings + 1} levels of network.channel_multipliers need"
            )


class Options(EncoderOptions):
    """Options of NCSN++ (Song et al., 2021, appendix H)."""

    progressive_output: Literal["none", "output_skip", "residual"] = "none"
    """The contribution of each level to the output, or to a pyramid of it (progressive).
    With `output_skip` the official code has as many output as input channels; ours has as many as
    requested."""
