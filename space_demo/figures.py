"""Figures as images inside the page, so that none is written to a file."""

import base64
import html
import io

from matplotlib.figure import Figure


def image_html(figure: Figure, alternative: str) -> str:
    """
    Draws a figure.

    Args:
        figure (`Figure`): of matplotlib.
        alternative (`str`): what the image shows, for those who do not see it.

    Returns:
        `str`: an `img` element that holds the image.
    """
    buffer = io.BytesIO()
    # A tenth of the size of a png.
    figure.savefig(buffer, format="webp", pil_kwargs={"quality": 90, "method": 2})
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img class="lung-figure" alt="{html.escape(alternative)}" src="data:image/webp;base64,{data}">'
