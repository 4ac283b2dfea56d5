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
    # Compressed less than usual, which halves the time.
    figure.savefig(buffer, format="png", pil_kwargs={"compress_level": 1})
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img class="lung-figure" alt="{html.escape(alternative)}" src="data:image/png;base64,{data}">'
