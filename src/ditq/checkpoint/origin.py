"""Which float weights a quantized model was made from, so that it is never put into others without a word."""

from dataclasses import asdict, dataclass

from ditq.core.errors import UserError
from ditq.models.base import Network
from ditq.models.digest import weights_digest


@dataclass(frozen=True)
class Origin:
    """The weights of a float network, as files name them."""

    weights: str
    """`weights_digest` of the network."""
    dtype: str
    """Of the network when it was taken: the same weights in another dtype have another digest."""

    @classmethod
    def of(cls, network: Network) -> "Origin":
        """The origin of what is made from this float network."""
        return cls(weights_digest(network), _dtype(network))

    def check(self, network: Network, what: str, name: str) -> None:
        """Raises UserError unless `network`, the float model called `name`, has these weights.

        Weights loaded in another dtype cannot be compared and pass.
        """
        if self.dtype == _dtype(network) and self.weights != (found := weights_digest(network)):
            raise UserError(
                what,
                got=f"one that was made from other weights of {name} ({self.weights})",
                expected=f"one made from those that are loaded ({found})",
                remedy="give the model that it was made from (--model-path), or quantize this one",
            )

    def __str__(self) -> str:
        return " ".join(asdict(self).values())


def _dtype(network: Network) -> str:
    return str(network.dtype).rpartition(".")[2]
