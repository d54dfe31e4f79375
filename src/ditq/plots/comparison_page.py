"""The page that shows a quantized model beside the float one: a self-contained file, for light and dark screens."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ditq.plots.captions import score_caption

LARGEST = 384
"""Longest side of a picture in the page's file, in pixels; larger ones are reduced, so that the file stays small."""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root {{ --ink: #1d2026; --soft: #5c6470; --line: #dde1e7; --paper: #ffffff; --card: #f5f7f9; --mark: #0072B2 }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e8eaee; --soft: #9aa3b0; --line: #343a43; --paper: #16191e; --card: #20242b; --mark: #6cb6e8 }}
}}
body {{ font: 15px/1.55 system-ui, sans-serif; max-width: 1080px; margin: 2.2rem auto; padding: 0 1.2rem;
  color: var(--ink); background: var(--paper) }}
h1 {{ font-size: 1.75rem; line-height: 1.25; margin: 0 0 .4rem }}
h2 {{ font-size: 1.2rem; margin: 2.6rem 0 .3rem }}
p {{ margin: .4rem 0 1rem; max-width: 46rem; overflow-wrap: anywhere }}
.soft, figcaption, .score {{ color: var(--soft) }}
.tiles {{ display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.4rem 0 }}
.tile {{ background: var(--card); border-radius: 10px; padding: .8rem 1.1rem; flex: 1 1 11rem }}
.tile b {{ display: block; font-size: 1.55rem; line-height: 1.25; color: var(--mark) }}
.tile b, table {{ font-variant-numeric: tabular-nums }}
.wide {{ overflow-x: auto }}
table {{ border-collapse: collapse; font-size: 13.5px }}
td, th {{ padding: .35rem .6rem; text-align: right; border-bottom: 1px solid var(--line) }}
td {{ white-space: nowrap }}
th {{ font-weight: 600; vertical-align: bottom }}
td:first-child, th:first-child {{ text-align: left; padding-left: 0 }}
.pictures td, .pictures th {{ border: 0; white-space: normal; padding: .25rem .3rem }}
.pictures td, .pictures th {{ text-align: center; vertical-align: middle }}
.pictures th {{ max-width: {shown}px; overflow-wrap: break-word; vertical-align: bottom }}
.pictures th:first-child, .pictures td:first-child {{ text-align: left; width: 8.5rem; padding-left: 0 }}
.pictures img {{ width: {shown}px; max-width: none; display: block; border-radius: 4px; margin: 0 auto }}
.score {{ font-size: 12.5px; display: block; padding-top: .15rem }}
.sliders {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 16rem), 1fr)); gap: 1rem }}
.slider {{ margin: 0; background: var(--card); border: 0 }}
.slider div {{ position: relative; line-height: 0 }}
.slider img + img {{ position: absolute; inset: 0; clip-path: inset(0 0 0 var(--at, 50%)) }}
.slider input {{ width: 100%; margin: .5rem 0 0; accent-color: var(--mark) }}
:focus-visible {{ outline: 3px solid var(--mark); outline-offset: 2px }}
figure {{ margin: 1rem 0; background: #fff; border-radius: 10px; border: 1px solid var(--line); padding: .6rem }}
figure img {{ width: 100%; display: block }}
code {{ background: var(--card); padding: .1rem .35rem; border-radius: 4px; font-size: 13px }}
</style>
<h1>{title}</h1>
<p class="soft">{lead}</p>
<div class="tiles">{tiles}</div>
{sections}
{script}
</html>
"""
_SCRIPT = """<script>
for (const input of document.querySelectorAll(".slider input"))
  input.addEventListener("input", () => input.closest(".slider").style.setProperty("--at", input.value + "%"));
</script>"""


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs under it, and below them HTML from `pictures`, `table` or `drawing`."""

    title: str
    text: Sequence[str]
    body: str


def comparison_page(
    title: str, lead: str, tiles: Mapping[str, str], sections: Sequence[Section], shown: int = 128
) -> str:
    """The page as HTML text: a heading, a tile for each number of `tiles` (meaning -> number), then the sections.

    Pictures are shown `shown` pixels wide.
    """
    return _PAGE.format(
        title=html.escape(title),
        lead=html.escape(lead),
        shown=shown,
        tiles="".join(
            f'<div class="tile"><b>{html.escape(number)}</b>{html.escape(meaning)}</div>'
            for meaning, number in tiles.items()
        ),
        sections="\n".join(_section(section) for section in sections),
        script=_SCRIPT if any('class="slider"' in section.body for section in sections) else "",
    )


def pictures(
    columns: Mapping[str, UInt8[np.ndarray, "prompts height width 3"]],
    prompts: Sequence[str],
    scores: Mapping[str, Sequence[float]],
    unit: str = "dB",
) -> str:
    """One row per prompt, one column per variant; under each picture its score, if its variant has scores.

    An infinite score is that of a picture identical to the float model's.
    """
    heading = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = []
    for row, prompt in enumerate(prompts):
        cells = [f"<td>{html.escape(prompt)}</td>"]
        for name, drawn in columns.items():
            score = score_caption(scores[name][row], unit) if name in scores else "&nbsp;"
            alt = html.escape(f"{prompt}, {name}", quote=True)
            cells.append(
                f'<td><img alt="{alt}" src="{_source(_png(drawn[row]))}"><span class="score">{score}</span></td>'
            )
        body.append(f"<tr>{''.join(cells)}</tr>")
    rows = "\n".join(body)
    return f'<div class="wide"><table class="pictures"><tr><th></th>{heading}</tr>\n{rows}</table></div>'


def sliders(
    names: tuple[str, str], pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], captions: Mapping[str, str]
) -> str:
    """For each prompt of `pairs` two pictures over each other, and a slider that uncovers one or the other.

    `names` are those of the left and of the right picture. Arrow keys move a slider that has the focus.
    """
    made = []
    for prompt, both in pairs.items():
        images = "".join(
            f'<img alt="{html.escape(f"{prompt}, {name}", quote=True)}" src="{_source(_png(picture))}">'
            for name, picture in zip(names, both, strict=True)
        )
        label = html.escape(f"{prompt}: {names[0]} on the left, {names[1]} on the right", quote=True)
        made.append(
            f'<figure class="slider"><div>{images}</div><input type="range" min="0" max="100" value="50" '
            f'aria-label="{label}"><figcaption>{html.escape(prompt)}<span class="score">'
            f"{html.escape(captions[prompt])}</span></figcaption></figure>"
        )
    return f'<div class="sliders">{"".join(made)}</div>'


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table as HTML, its heading first."""
    lines = []
    for number, row in enumerate(rows):
        tag = "td" if number else "th"
        lines.append(f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in row)}</tr>")
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def drawing(name: str, data: bytes) -> str:
    """A figure, given as a PNG file's content."""
    return f'<figure><img alt="{html.escape(name, quote=True)}" src="{_source(data)}"></figure>'


def _section(section: Section) -> str:
    text = "".join(f"<p>{html.escape(line)}</p>" for line in section.text)
    return f"<h2>{html.escape(section.title)}</h2>\n{text}\n{section.body}"


def _png(picture: UInt8[np.ndarray, "height width 3"]) -> bytes:
    image, buffer = Image.fromarray(picture), io.BytesIO()
    image.thumbnail((LARGEST, LARGEST))
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _source(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"
