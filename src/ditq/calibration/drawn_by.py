"""network.json of a calibration folder: which weights drew its pictures, so that others are not taken for them.

It stands apart from manifest.json, whose digest seeds what is drawn at random from the data.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from ditq.core.errors import UserError
from ditq.core.files import read_json, write_json
from ditq.core.schema import checked
from ditq.models.base import Network
from ditq.models.digest import weights_digest

NAME = "network.json"


@dataclass(frozen=True)
class DrawnBy:
    """The network, and the shape of its latents."""

    dtype: str
    weights: str
    """`ditq.models.digest.weights_digest`."""
    latents: tuple[int, int, int]
    """Height, width, channels."""


def read_drawn_by(folder: Path) -> DrawnBy | None:
    """What a calibration folder says; None where it is of an older release, which said nothing."""
    path = folder / NAME
    return checked(read_json(path), DrawnBy, str(path)) if path.exists() else None


def begin(folder: Path, network: Network, latents: tuple[int, int, int], new: bool) -> None:
    """Writes network.json of a `new` folder, or checks that the run is resumed with the same network.

    Raises UserError, naming both, when it is another.
    """
    if new:
        found = DrawnBy(str(network.dtype), weights_digest(network), latents)
        write_json(folder / NAME, {**asdict(found), "latents": list(latents)})
        return
    known = read_drawn_by(folder)
    if known is None:
        return
    if known.dtype != str(network.dtype):
        raise UserError(
            f"cannot resume {folder}: dtype of the network",
            got=str(network.dtype),
            expected=f"{known.dtype} as in the earlier run",
            remedy="use the same --dtype, --force or another place",
        )
    check_weights(folder / NAME, known.dtype, known.weights, network)


def check_weights(path: Path, dtype: str | None, weights: str | None, network: Network) -> None:
    """Raises UserError, naming both, when the file at `path` was made with other weights than those of `network`.

    None, of an older release, is any; so are weights in another dtype, which cannot be compared.
    """
    if weights is None or dtype != str(network.dtype):
        return
    found = weights_digest(network)
    if found != weights:
        raise UserError(
            f"{path}: made with another model's weights",
            got=f"weights {weights}",
            expected=f"{found} as those of the loaded {network.family} network",
            remedy="give the --model-path that it was made with, or make it again with --force",
        )
