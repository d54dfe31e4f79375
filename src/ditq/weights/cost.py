"""What quantizing one block costs: the work, described by shapes alone."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from ditq import capture
from ditq.core.cost import Cost
from ditq.models.anatomy import Anatomy

RANGE_SEARCH = 1000
"""Element-wise operations per weight of the search for its range."""
ON_GRID = 8
"""The same per value that is put on a grid."""


@dataclass(frozen=True)
class LayerWork:
    """One layer to quantize."""

    out: int
    columns: int
    """Of its matrix: input channels times the kernel's places."""
    rows: int
    """Rows that its matrix multiplies, per calibration sample: tokens or output pixels."""
    input: str
    """The name of its input; layers of one name share one Hessian."""
    stage: int
    """Place in the order of execution."""

    @property
    def weights(self) -> int:
        """Their number."""
        return self.out * self.columns


@dataclass(frozen=True)
class Work:
    """The layers of one block to quantize, and its calibration."""

    rows: int
    """Calibration samples."""
    share: float
    """The block's part of a pass through the network."""
    layers: Mapping[str, LayerWork]
    """By path."""

    @property
    def weights(self) -> int:
        """Of all layers."""
        return sum(layer.weights for layer in self.layers.values())

    @property
    def inputs(self) -> int:
        """Values that the layers receive for one calibration sample."""
        return sum(layer.rows * layer.columns for layer in self.layers.values())

    @property
    def search(self) -> Cost:
        """The search for every weight's range."""
        return Cost(values=RANGE_SEARCH * self.weights)

    def passes(self, count: float, quantized: bool = True) -> Cost:
        """So many runs of the block over all samples; inputs are put on grids where it is quantized."""
        rows = count * self.rows
        return Cost(rows=rows * self.share, values=ON_GRID * rows * self.inputs if quantized else 0)

    def only(self, paths: Iterable[str]) -> "Work":
        """The same block with fewer layers to quantize."""
        return replace(self, layers={path: self.layers[path] for path in paths})

    def by_input(self) -> list[list[LayerWork]]:
        """The layers grouped by the input that they share."""
        found: dict[str, list[LayerWork]] = {}
        for layer in self.layers.values():
            found.setdefault(layer.input, []).append(layer)
        return list(found.values())

    def by_stage(self) -> list["Work"]:
        """The layers in the order of execution, those that do not see each other together."""
        stages = sorted({layer.stage for layer in self.layers.values()})
        return [
            self.only(path for path, layer in self.layers.items() if layer.stage == stage) for stage in stages
        ]


def block_work(
    anatomy: Anatomy,
    layers: Mapping[str, capture.Layer],
    rows: int,
    share: float,
    rows_per_sample: Callable[[str], int],
) -> Work:
    """The work of quantizing these layers of one block; only shapes are looked at.

    `rows_per_sample` says how many rows a layer's matrix multiplies for one calibration sample.
    """
    found = {}
    for path, layer in layers.items():
        site, out = anatomy.site(path), layer.weight.shape[0]
        found[path] = LayerWork(out, layer.weight.size // out, rows_per_sample(path), site.input, site.stage)
    return Work(rows, share, found)
