"""Figures small enough for an inbox: a palette instead of millions of colours, and a text that says what they show."""

from __future__ import annotations

import io
import warnings
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

DPI = 100
COLOURS = 24


def small_png(figure: Figure, dpi: int = DPI, colours: int = COLOURS) -> bytes:
    """Draw a figure as PNG with a palette: a third of the bytes, hardly to be told apart.

    Parameters
    ----------
    figure : Figure
    dpi : int
    colours : int
        Of the palette.

    Returns
    -------
    bytes
    """
    from PIL import Image

    drawn, packed = io.BytesIO(), io.BytesIO()
    with warnings.catch_warnings():
        # Names and categories are the callers': a letter that the font lacks is shown as a box, without a word.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(drawn, format="png", dpi=dpi, metadata={"Software": None})
    with Image.open(drawn) as image:
        flat = Image.new("RGB", image.size, "white")
        flat.paste(image, mask=image.getchannel("A") if "A" in image.getbands() else None)
        reduced = flat.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        reduced.save(packed, format="PNG", optimize=True)
    return packed.getvalue()


def picture(drawn: Axes | Figure | None, alt: str) -> Any:
    """Close a figure and return it as a picture that says what it shows where pictures are off.

    Parameters
    ----------
    drawn : Axes, Figure or None
        As `fraud.pipeline.plots` returns it.
    alt : str
        Plain text.

    Returns
    -------
    IPython.display.Image or None
        None when there is nothing to draw.
    """
    if drawn is None:
        return None
    from IPython.display import Image

    figure = drawn if isinstance(drawn, Figure) else drawn.figure
    assert isinstance(figure, Figure)  # no figure here stands within another
    data = small_png(figure)
    plt.close(figure)
    return Image(data=data, format="png", alt=alt)
