"""`mini`'s classifier: what a picture shows, the features that tell it, and what a prompt asked for."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar, TypedDict

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from jaxtyping import Float, Float32, Int64, UInt8

from ditq.core.errors import UserError
from ditq.core.schema import FILLED
from ditq.models.digest import weights_digest
from ditq.models.prompts import short

ATTRIBUTES = ("object", "background", "colour", "position")
"""What the classifier tells of a picture, in the order of its outputs."""
SIDE = 128
"""Height and width of the pictures that it reads."""
COLOURED = {"tulip": "red", "mushroom": "red", "apple": "red", "balloon": "red", "car": "red", "fish": "blue"}
"""Objects that come in several colours, with the one that is meant when the prompt names none."""
UNASKED = -1
"""Stands for an attribute that a prompt does not ask for."""


class Labels(TypedDict):
    """The names of the classes, in the metadata of the weights' file."""

    objects: Annotated[list[str], FILLED]
    backgrounds: Annotated[list[str], FILLED]
    colours: Annotated[list[str], FILLED]
    positions: Annotated[list[str], FILLED]


class Classifier(nn.Module):
    """Four strided convolutions, and a linear layer for each attribute."""

    def __init__(self, objects: int, backgrounds: int, colours: int, positions: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 5, stride=2, padding=2)
        self.conv2 = nn.Conv2d(32, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(64, 96, 3, stride=2, padding=1)
        self.conv4 = nn.Conv2d(96, 160, 3, stride=2, padding=1)
        self.object = nn.Linear(2 * 160, objects)
        self.background = nn.Linear(2 * 160, backgrounds)
        self.colour = nn.Linear(2 * 160, colours)
        self.position = nn.Linear(8 * 160, positions)

    def __call__(
        self, x: Float[mx.array, "batch height width 3"]
    ) -> tuple[Float[mx.array, "batch 320"], tuple[mx.array, mx.array, mx.array, mx.array]]:
        """Features of pictures in [-1, 1] (mean and maximum of each map), and the logits of the four attributes.

        The position is read from maps that keep the columns apart.
        """
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = nn.relu(conv(x))
        pooled = mx.concatenate([x.mean((1, 2)), x.max((1, 2))], 1)
        columns = x.mean(1).transpose(0, 2, 1).reshape(len(x), -1)
        heads = self.object(pooled), self.background(pooled), self.colour(pooled), self.position(columns)
        return pooled, heads


@dataclass(frozen=True)
class Seen:
    """What the classifier makes of some pictures."""

    features: Float32[np.ndarray, "pictures 320"]
    objects: Float32[np.ndarray, "pictures objects"]
    """Logits of the objects."""
    labels: Int64[np.ndarray, "pictures 4"]
    """The most probable class of each of `ATTRIBUTES`."""


@dataclass(frozen=True)
class Judge:
    """The classifier with the names of its classes and the other words that prompts may use for them."""

    network: Classifier
    labels: Labels
    aliases: dict[str, str]
    attributes: ClassVar[tuple[str, ...]] = ATTRIBUTES
    side: ClassVar[int] = SIDE

    @cached_property
    def fingerprint(self) -> str:
        """A digest of its weights."""
        return weights_digest(self.network)

    def see(self, pictures: UInt8[np.ndarray, "pictures height width 3"]) -> Seen:
        """Features and classes of a batch. Raises UserError for pictures that are not 128 x 128."""
        if pictures.shape[1:3] != (SIDE, SIDE):
            got = f"pictures of {pictures.shape[2]} x {pictures.shape[1]}"
            raise UserError("mini's classifier", got=got, expected=f"{SIDE} x {SIDE} pixels")
        features, heads = self.network(mx.array(pictures).astype(mx.float32) / 127.5 - 1)
        labels = mx.stack([one.argmax(1) for one in heads], 1)
        mx.eval(features, heads, labels)
        return Seen(np.array(features), np.array(heads[0]), np.array(labels).astype(np.int64))

    def asked(self, prompts: list[str]) -> Int64[np.ndarray, "prompts 4"]:
        """The classes that each prompt asks for.

        The first object that is named counts. A colour in front of it is its own and one behind it the background's;
        without a place the background is white, without a position the object is in the middle, and without a colour
        it has its usual one: docs/mini.md. UNASKED stands for the colour of an object that comes in one alone. Raises
        UserError for a prompt that names no object.
        """
        return np.array([self._asked(prompt) for prompt in prompts], np.int64)

    def _asked(self, prompt: str) -> tuple[int, int, int, int]:
        given: list[str] = re.findall(r"[\w-]+", prompt.lower())
        words = [word for one in given for word in self.aliases.get(one, one).split()]
        names = self.labels
        at = next((i for i, word in enumerate(words) if word in names["objects"]), None)
        if at is None:
            expected = f"one of {', '.join(names['objects'])}"
            raise UserError(f"the prompt {short(prompt)}", got="no object of mini's", expected=expected)
        noun, before, behind = words[at], words[:at], words[at + 1 :]
        colour = UNASKED
        if noun in COLOURED:
            colour = names["colours"].index(_first(before, names["colours"], COLOURED[noun]))
        place = _first(behind, names["backgrounds"], names["backgrounds"][0])
        position = _first(words, names["positions"], "middle")
        return (
            names["objects"].index(noun),
            names["backgrounds"].index(place),
            colour,
            names["positions"].index(position),
        )


def _first(words: list[str], known: list[str], default: str) -> str:
    return next((word for word in words if word in known), default)
