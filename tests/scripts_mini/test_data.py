"""The pictures of mini's data set and the captions that describe them."""

import random

import numpy as np
import pytest

from mini import data, icons, nets, words

SHAPE = '<path fill="#F8312F" d="M6 6h20v20h-20z"/><path fill="#00A6ED" d="M12 12h8v8h-8z"/>'
BODIES = dict.fromkeys(words.OBJECTS.values(), SHAPE)


def place(name: str) -> int:
    return [background.name for background in data.BACKGROUNDS].index(name)


def picture(noun="fox", background="white", size="", position="middle", colour=-1) -> data.Picture:
    return data.Picture(
        list(words.OBJECTS).index(noun),
        colour,
        place(background),
        words.SIZES.index(size),
        words.POSITIONS.index(position),
    )


def red(pixels: np.ndarray) -> np.ndarray:
    return (pixels[..., 0].astype(int) - pixels[..., 1:].max(-1)) > 100


def test_every_picture_is_described_by_known_words_within_the_length():
    index = {word: number for number, word in enumerate(words.vocabulary())}
    rng = random.Random(0)
    for item in data.pictures(2000):
        for text in (words.caption(item), words.caption(item, rng)):
            ids = words.tokenize([text], index)[0]
            assert 0 < len(text.split()) <= words.MAX_WORDS
            assert np.count_nonzero(ids) == len(text.split())


def test_a_plain_caption_names_all_that_is_named():
    item = picture("car", "snow", "small", "left", colour=words.COLOURS.index("blue"))
    assert words.caption(item) == "a small blue car on the left in the snow"
    assert words.caption(picture("owl", "orange")) == "an owl on an orange background"


def test_looser_captions_leave_nothing_open():
    item = picture("car", "snow", "small", "left", colour=words.COLOURS.index("blue"))
    rng = random.Random(0)
    for _ in range(200):
        assert {"small", "blue", "car", "left", "snow"} <= set(words.caption(item, rng).split())


def test_pictures_are_the_same_in_every_run_and_begin_with_those_of_a_smaller_set():
    assert data.pictures(300)[:100] == data.pictures(100)


def test_objects_are_never_on_a_background_of_their_colour():
    for item in data.pictures(3000):
        colour = words.COLOURS[item.colour] if item.colour >= 0 else None
        assert colour != data.BACKGROUNDS[item.background].name


def test_every_object_keeps_most_of_its_backgrounds():
    for obj in range(len(words.OBJECTS)):
        held = [data.held_out(obj, one) for one in range(len(data.BACKGROUNDS))]
        assert 1 <= sum(held) <= 3


@pytest.mark.parametrize("position", words.POSITIONS)
def test_the_object_is_where_the_caption_says(position):
    columns = [
        np.flatnonzero(red(data.draw(picture(position=position), BODIES, random.Random(seed))).any(0)).mean()
        for seed in range(8)
    ]
    middle = 63.5 + {"left": -26, "middle": 0, "right": 26}[position]
    assert np.abs(np.array(columns) - middle).max() < data.SHIFT + 2
    assert np.ptp(columns) > 1  # the seed shifts it


def test_sizes_grow():
    areas = [red(data.draw(picture(size=size), BODIES, random.Random(0))).sum() for size in words.SIZES]
    assert areas[0] * 1.5 < areas[1] < areas[2] / 1.5


def test_two_seeds_of_a_scene_differ_and_the_same_seed_does_not():
    one, same, other = (
        data.draw(picture(background="meadow"), BODIES, random.Random(seed)).astype(int) for seed in (0, 0, 1)
    )
    assert np.array_equal(one, same)
    assert np.abs(one - other).mean() > 5


def test_colours_replace_the_tones_of_the_object_alone():
    blue = icons.dyed(SHAPE, "car", words.COLOURS.index("blue"))
    assert icons.TONES["blue"][0] in blue and "#F8312F" not in blue
    assert "#00A6ED" in blue and 'd="M6 6h20v20h-20z"' in blue
    assert icons.dyed(SHAPE, "car", -1) == SHAPE
    assert set(icons.DYED) == set(words.COLOURED)


def test_rendered_pictures_and_their_code(tmp_path):
    data.render(tmp_path / "pictures.npy", BODIES, count=32)
    rendered = np.load(tmp_path / "pictures.npy")
    assert rendered.shape == (32, 128, 128, 3)
    assert np.array_equal(rendered[5], data.draw(data.pictures(6)[5], BODIES, random.Random(5)))
    code = nets.Latents.fit(rendered)
    latents = code.encode(rendered)
    assert latents.shape == (32, 16, 16, 16) and abs(latents.var() - 1) < 0.1
    assert np.abs(code.decode(latents).astype(int) - rendered).mean() < 4
