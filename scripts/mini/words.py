"""The words of `mini`: what its captions name, and how."""

from __future__ import annotations

import random

import numpy as np

from mini.scenes import BACKGROUNDS

# word in captions -> name of the icon
OBJECTS = {
    "fox": "fox", "penguin": "penguin", "cactus": "cactus", "rocket": "rocket", "house": "house",
    "burger": "hamburger", "robot": "robot", "whale": "whale", "snowman": "snowman-without-snow",
    "cat": "cat-face", "dog": "dog-face", "frog": "frog", "pig": "pig-face", "owl": "owl",
    "turtle": "turtle", "octopus": "octopus", "tree": "evergreen-tree", "sunflower": "sunflower",
    "tulip": "tulip", "mushroom": "mushroom", "apple": "red-apple", "balloon": "balloon",
    "car": "automobile", "fish": "fish",
}  # fmt: skip
COLOURS = ("red", "yellow", "blue", "purple")
# objects whose captions name one of the colours -> the colour they have when none is named
COLOURED = {"tulip": "red", "mushroom": "red", "apple": "red", "balloon": "red", "car": "red", "fish": "blue"}
SIZES = ("small", "", "large")
POSITIONS = ("left", "middle", "right")
MAX_WORDS = 12
# other words for the same thing, for the prompts of users; the model never sees them
ALIASES = {
    "hamburger": "burger", "cheeseburger": "burger", "kitten": "cat", "kitty": "cat", "puppy": "dog",
    "piglet": "pig", "tortoise": "turtle", "pine": "tree", "fir": "tree", "toadstool": "mushroom",
    "automobile": "car", "violet": "purple", "tiny": "small", "little": "small", "big": "large",
    "huge": "large", "giant": "large", "centre": "middle", "center": "middle", "ocean": "water",
    "sea": "water", "underwater": "under water", "sand": "beach", "field": "meadow", "grass": "meadow",
    "dark": "black", "gray": "grey", "dusk": "sunset", "winter": "snow", "snowy": "snow",
    "backdrop": "background",
}  # fmt: skip
_FILLERS = {"a", "an", "the", "on", "in", "at", "under", "background"}


def caption(item, rng: random.Random | None = None) -> str:
    """The caption of a `Picture`, at most `MAX_WORDS` words.

    Without `rng` the plain one: the middle is not named ('a small red car on the left in the snow'). With `rng` one of
    its looser wordings: the middle named, the usual colour left out, 'fox snow', 'a fox' for a white background.
    """
    noun = list(OBJECTS)[item.object]
    colour = COLOURS[item.colour] if item.colour >= 0 else ""
    side = POSITIONS[item.position]
    place = BACKGROUNDS[item.background].phrase
    where = f"on the {side}" if side != "middle" else ""
    if rng is not None:
        if not where and rng.random() < 0.3:
            where = "in the middle"
        if COLOURED.get(noun) == colour and rng.random() < 0.3:
            colour = ""
        if item.background == 0 and rng.random() < 0.4:
            place = ""  # nothing said of the background means white
    things = f"{SIZES[item.size]} {colour} {noun}".split()
    words = ["an" if things[0][0] in "aeiou" else "a", *things, *where.split(), *place.split()]
    if rng is None or rng.random() < 0.7:
        return " ".join(words)
    return " ".join(word for word in words if word not in _FILLERS or rng.random() < 0.6)


def vocabulary() -> list[str]:
    """All words in order of their token id; id 0 is the padding."""
    words = {"a", "an", *OBJECTS, *COLOURS, *SIZES, "on", "in", "the", *POSITIONS} - {""}
    for background in BACKGROUNDS:
        words |= set(background.phrase.split())
    return ["<pad>", *sorted(words)]


def tokenize(captions: list[str], index: dict[str, int]) -> np.ndarray:
    """Token ids, int64 [captions, 12]; every word must be known."""
    ids = np.zeros((len(captions), MAX_WORDS), np.int64)
    for row, text in enumerate(captions):
        for column, word in enumerate(text.split()):
            ids[row, column] = index[word]
    return ids
