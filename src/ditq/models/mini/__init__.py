"""`mini`: the embedded text-to-image model, SD3's architecture in small, with its trained weights in the package."""

from ditq.models.mini.classifier import ATTRIBUTES, UNASKED, Judge, Seen
from ditq.models.mini.model import MINI, Mini
from ditq.models.mini.words import UnknownWords, Words

__all__ = ["ATTRIBUTES", "MINI", "UNASKED", "Judge", "Mini", "Seen", "UnknownWords", "Words"]
