"""The page holds every picture and number it was given, and needs nothing beside it."""

import base64
import io
import re

import numpy as np
from PIL import Image

from ditq.plots.comparison_page import LARGEST, Section, comparison_page, drawing, pictures, table


def shown(text: str) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]


def test_pictures_come_in_rows_of_prompts_with_their_scores():
    drawn = {
        name: np.full((2, 8, 8, 3), level, np.uint8) + np.arange(2, dtype=np.uint8)[:, None, None, None]
        for name, level in (("float", 10), ("W4A8", 20))
    }
    text = pictures(drawn, ["a <fox>", "an owl"], {"W4A8": [31.25, 29.0]})
    assert [int(image[0, 0, 0]) for image in shown(text)] == [10, 20, 11, 21]
    assert "a &lt;fox&gt;" in text and "<fox>" not in text
    assert text.index("31.2 dB") < text.index("29.0 dB")
    assert "identical</span>" in pictures(drawn, ["a fox", "an owl"], {"W4A8": [31.25, float("inf")]})


def test_large_pictures_are_reduced():
    text = pictures({"float": np.zeros((1, 1024, 512, 3), np.uint8)}, ["a"], {})
    assert shown(text)[0].shape[:2] == (LARGEST, LARGEST // 2)


def test_page_is_self_contained():
    body = table([["variant", "dB"], ["W4A8 & co", "3"]]) + drawing("spread", b"\x89PNG")
    page = comparison_page("a title", "a lead", {"smaller": "31 %"}, [Section("one", ["a sentence"], body)])
    for wanted in ("<h1>a title</h1>", "31 %", "<h2>one</h2>", "<p>a sentence</p>", "<td>W4A8 &amp; co</td>"):
        assert wanted in page
    assert not re.search(r'(src|href)="(?!data:)', page) and "{" not in page.split("</style>")[1]
