"""The options of NCSN++ and of its guide. The names in the official code are in parentheses."""

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from psld.config.settings import Settings


class EncoderOptions(Settings):
    """Options that NCSN++ and its guide share."""

    in_bfloat16: ClassVar[bool] = True

    base_channels: int = Field(ge=8, multiple_of=4)
    """Channels of the first level (nf)."""
    channel_multipliers: tuple[PositiveInt, ...] = Field(min_length=1)
    """Channels of each level as multiples of `base_channels`; each level after the first halves the
    image (ch_mult)."""
    blocks_per_level: PositiveInt
    """Residual blocks per downsampling level; upsampling levels have one block more
    (num_res_blocks)."""
    attention_resolutions: tuple[PositiveInt, ...] = ()
    """Image heights in pixels of the levels with attention. Heights that no level has are ignored.
    The middle of the network always has attention (attn_resolutions)."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout probability in the residual branches (dropout)."""
    block: Literal["biggan", "ddpm"] = "biggan"
    """`biggan`: residual blocks resample; `ddpm`: separate layers resample (resblock_type)."""
    embedding: Literal["positional", "fourier"] = "positional"
    """`positional`: sinusoids of t; `fourier`: Fourier features of log t (embedding_type)."""
    fourier_scale: float = Field(default=16.0, gt=0)
    """Standard deviation of the frequencies of the Fourier features (fourier_scale)."""
    resampling: Literal["plain", "fir"] = "plain"
    """`plain`: average 2×2 pixels to downsample, repeat pixels to upsample; `fir`: a FIR filter for
    both (fir)."""
    fir_kernel: tuple[float, ...] = Field(default=(1, 3, 3, 1), min_length=2)
    """Taps of the one-dimensional FIR filter, which is normalized to sum 1 (fir_kernel)."""
    resample_with_conv: bool = True
    """Add a convolution to the resampling layers between `ddpm` blocks (resamp_with_conv)."""
    skip_rescale: bool = True
    """Divide each sum of shortcut and branch by √2, to preserve the variance (skip_rescale)."""
    progressive_input: Literal["none", "input_skip", "residual"] = "none"
    """How the downsampling levels use a pyramid of the downsampled input (progressive_input)."""
    progressive_combine: Literal["sum", "cat"] = "sum"
    """How `input_skip` combines the pyramid with the features: `sum` adds the pyramid, `cat`
    appends its channels (progressive_combine)."""
    init_scale: float = Field(default=0.0, ge=0)
    """Scale of the initial weights of the last layer of each branch; 0 means 1e-10 (init_scale)."""

    @property
    def channels(self) -> list[int]:
        return [self.base_channels * multiplier for multiplier in self.channel_multipliers]

    @property
    def takes_logarithm(self):
        return self.embedding == "fourier"

    def check_image_size(self, size):
        halvings = len(self.channel_multipliers) - 1
        sides = (size, size) if isinstance(size, int) else size
        if any(side % 2**halvings for side in sides):
            raise ValueError(
                f"dataset.image_size {size} cannot be halved {halvings} times, as the "
                f"{halvings + 1} levels of network.channel_multipliers need"
            )


class Options(EncoderOptions):
    """Options of NCSN++ (Song et al., 2021, appendix H)."""

    progressive_output: Literal["none", "output_skip", "residual"] = "none"
    """How the upsampling levels contribute to the output. `none`: only the last level contributes;
    `output_skip`: the images of all levels are summed in a pyramid; `residual`: a pyramid is added
    to the features (progressive). With `output_skip`, the output of the official code always has as
    many channels as the input; this code returns the requested number of channels."""
