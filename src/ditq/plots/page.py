"""One self-contained page of figures, with a picker for the layers: no file beside it, nothing from the network."""

import base64
import html
import io
from collections.abc import Mapping, Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 980px; margin: 2rem auto; padding: 0 1rem; color: #222 }}
img {{ max-width: 100%; display: block; margin: 1rem 0; border: 1px solid #ddd }}
table {{ border-collapse: collapse; font-size: 13px }}
td, th {{ padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: pre }}
td:first-child, th:first-child {{ text-align: left }}
.picker {{ position: sticky; top: 0; background: white; padding: .6rem 0 }}
</style>
<h1>{title}</h1>
<ul>{conclusions}</ul>
<table>{table}</table>
<p>{legend}</p>
<h2>All layers</h2>
{overviews}
<h2>One layer</h2>
<p class="picker"><label>Layer: <select id="layer">{options}</select></label></p>
{layers}
<script>
const picker = document.getElementById("layer");
function show() {{
  for (const section of document.querySelectorAll("section"))
    section.hidden = section.id !== picker.value;
}}
picker.addEventListener("change", show);
show();
</script>
</html>
"""


def png(figure: Figure) -> bytes:
    """The figure as a PNG file's content."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def page(
    title: str,
    conclusions: Sequence[str],
    rows: Sequence[Sequence[str]],
    legend: str,
    overviews: Mapping[str, bytes],
    layers: Mapping[str, Mapping[str, bytes]],
) -> str:
    """The page as HTML text: sentences, a table (heading first), the overview figures, and those of each layer."""
    heading, *body = [
        "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) for tag, row in _tagged(rows)
    ]
    return _PAGE.format(
        title=html.escape(title),
        conclusions="".join(f"<li>{html.escape(line)}</li>" for line in conclusions),
        table="".join(f"<tr>{cells}</tr>" for cells in [heading, *body]),
        legend=html.escape(legend),
        overviews=_images(overviews),
        options="".join(f"<option>{html.escape(name)}</option>" for name in layers),
        layers="".join(
            f'<section id="{html.escape(name, quote=True)}">{_images(figures)}</section>\n'
            for name, figures in layers.items()
        ),
    )


def _tagged(rows: Sequence[Sequence[str]]) -> list[tuple[str, Sequence[str]]]:
    return [("td" if i else "th", row) for i, row in enumerate(rows)]


def _images(figures: Mapping[str, bytes]) -> str:
    return "\n".join(
        f'<img alt="{html.escape(name, quote=True)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'
        for name, data in figures.items()
    )
