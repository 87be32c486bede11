"""The captions of figures, the same in the report and on the page of results."""

from psld.grid.figures import GridFigure

LEVELS = (
    "Bars are 95 % intervals. Hollow markers are the paper's numbers, if it has any. The line "
    "“noise” is the distance of pure noise, and “test split” that of held-out images; an arrow "
    "marks a value beyond the axis."
)
NOT_CHOSEN = "The first samples, not chosen."
SAME_START = "from the same noise in every model with as many blocks of variables"


def caption_of(figure: GridFigure) -> str:
    """Return a figure's caption: a few sentences of plain text."""
    match figure.kind, figure.name:
        case "samples", _:
            return _caption_of_samples(figure)
        case "comparison", _:
            return f"{NOT_CHOSEN} A column is the same sample in each row and starts {SAME_START}."
        case "nearest", _:
            return (
                "Of the measured samples, those nearest to a training image in the metric's "
                "features, and below each this image. Copies of training images would stand here."
            )
        case "phase-space", _:
            return (
                "The path of sample 0 from noise (t = 1) to data (t = 0) in position and momentum. "
                "Above, gray is 0; the momentum is in units of its stationary deviation √M, and "
                "white and black are two of them. Below, the marked pixels (of a color image the "
                "green channel) in the plane of position and momentum, and over time. At t = 0 the "
                "momentum has the distribution with which the forward process starts, N(0, κM)."
            )
        case _, "nfe":
            return (
                "Distance from the reference against counted network evaluations per image, for "
                "cells that differ in their budget only. One panel for each sampler, one line for "
                "each model; both axes are logarithmic. Panels with the same values on their axis "
                f"can be compared. {LEVELS}"
            )
        case _, "gamma":
            return (
                "Distance from the reference against the friction Γ on the position, for models "
                "that differ in Γ only (Γ = 0 is CLD). One panel for each sampler, one line for "
                "each budget. The axis of Γ is linear from 0 to the smallest Γ, then logarithmic. "
                f"{LEVELS}"
            )
    return (
        "Mean loss of each model over its training steps; both axes are logarithmic, and long "
        "curves are averaged over steps. Losses of different processes measure different noise: a "
        "lower one does not mean a better model."
    )


def _caption_of_samples(figure: GridFigure) -> str:
    cell = figure.cell.name
    match figure.cell.sampler.guidance:
        case "inpainting":
            strips = "the originals, the same with the hole in blue, and the result"
            return f"The first inpainted images of {cell}, not chosen, in strips: {strips}."
        case "classifier" | "classifier-free":
            return f"The first samples of {cell}, not chosen: a row for each class asked for."
    return f"The first samples of {cell}, not chosen. The same positions start {SAME_START}."
