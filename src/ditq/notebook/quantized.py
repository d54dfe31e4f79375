"""A quantized model in a notebook: made by a recipe, or read from a folder."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ditq import checkpoint, models
from ditq.calibration import read_images
from ditq.checkpoint import QuantizedCheckpoint, write_folder
from ditq.cli.progress import Bars
from ditq.core.errors import UserError
from ditq.core.files import remove
from ditq.core.recipe import Recipe, read_recipe
from ditq.evaluation import size_of
from ditq.models.base import TextToImage
from ditq.notebook.arguments import checked_arguments
from ditq.notebook.calibration import CalibrationData
from ditq.notebook.checks import a_folder, a_path, refused
from ditq.notebook.folders import check_own
from ditq.notebook.model import Model, float_model, inner_of
from ditq.notebook.pictures import table
from ditq.quantization import check_storable
from ditq.quantization import quantize as quantize_recipe
from ditq.quantization.preparation import CACHE, activation_method, calibrated, calibration_amounts
from ditq.quantization.tuning import tuning_of


class QuantizedModel(Model):
    """A quantized model: draws as its float model does, saves itself, and says how small it is."""

    def __init__(self, float_model: TextToImage, made: QuantizedCheckpoint, activations: bool | None = None):
        """`activations` None quantizes them where the checkpoint has grids for them."""
        on = made.activations is not None if activations is None else activations
        super().__init__(checkpoint.QuantizedModel(float_model, made, on))
        self.float_model, self.checkpoint, self.activations = float_model, made, on

    @checked_arguments()
    def save(self, folder: str | Path, force: bool = False) -> Path:
        """Writes the checkpoint folder, which stock MLX loaders read too, and returns it.

        Raises UserError when a checkpoint is there and `force` is false.
        """
        folder = Path(folder)
        if (folder / "config.json").exists() and not force:
            raise UserError(
                str(folder), got="another checkpoint", remedy="save with force=True, or elsewhere"
            )
        remove(folder / "config.json")
        write_folder(folder, self.float_model.network(), self.checkpoint)
        return folder

    @property
    def label(self) -> str:
        """Its bits: W4A8, or W4/8A16 where they differ."""
        weights = sorted({weight.spec.bits for weight in self.checkpoint.weights.values()})
        grids = self.checkpoint.activations
        inputs = [16]
        if self.activations and grids is not None:
            rows = [grid.at(grids.timesteps) for grid in grids.grids.values()]
            inputs = sorted({bits for one in rows for bits in one.bits})
        return f"W{'/'.join(map(str, weights))}A{'/'.join(map(str, inputs))}"

    def _facts(self) -> list[tuple[str, str]]:
        size, whole = (size_of(self.float_model, some) for some in (self.checkpoint, None))
        meta = self.checkpoint.meta
        facts = [
            ("model", self.name),
            ("bits", self.label),
            ("quantized layers", str(len(self.checkpoint.weights))),
            ("bits per quantized weight", f"{size.bits_per_weight:.2f}"),
            ("weights", f"{size.bytes / 1e6:,.2f} MB, {size.bytes / whole.bytes:.0%} of 16 bits"),
        ]
        if meta.get("block_error_rounding"):
            ratio = meta["block_error"] / meta["block_error_rounding"]
            facts.append(("block error, as a part of rounding's", f"{ratio:.2f}"))
        return [("recipe", meta["recipe"]), *facts] if "recipe" in meta else facts

    def __repr__(self) -> str:
        return "; ".join(f"{name}: {value}" for name, value in self._facts())

    def _repr_html_(self) -> str:
        return table([("quantized model", ""), *self._facts()])


def _recorded(argument: str, value: Any) -> CalibrationData | Path:
    """The check of calibration data or its folder."""
    if not isinstance(value, CalibrationData | str | Path):
        raise refused(argument, value, "calibration data, as ditq.calibrate returns, or its folder")
    return value if isinstance(value, CalibrationData) else a_folder(argument, value)


@checked_arguments(model=float_model, data=_recorded)
def quantize(
    model: "Model | TextToImage",
    recipe: str | Path | Recipe,
    data: CalibrationData | str | Path,
    work: str | Path | None = None,
    seed: int = 0,
    keep_cache: bool = False,
) -> QuantizedModel:
    """The model quantized as `recipe` says: a preset's name, a recipe's .json file, or a `Recipe`.

    `data` is calibration data or its folder. In a folder `work` every finished part is kept, and a call that was
    interrupted goes on where it stopped, to the same codes; `keep_cache` leaves the blocks' inputs and outputs there,
    too, for another recipe. Raises UserError for a recipe that does not fit or whose result no folder can hold, and for
    a folder begun with another recipe, model or calibration, or with other files in it.
    """
    check_own("work", work, "ditq.quantize", f"{CACHE}/metadata.json", "quantized/plan.json")
    inner = inner_of(model)
    chosen = recipe if isinstance(recipe, Recipe) else read_recipe(str(recipe))
    activation_method(chosen)
    tuning = tuning_of(chosen.tuning, f"recipe {chosen.name}")
    check_storable(inner.skeleton(), chosen)
    recorded = data if isinstance(data, CalibrationData) else CalibrationData(read_images(Path(data)))
    amounts = calibration_amounts(inner.name, len(recorded))
    with ExitStack() as stack:
        place = work or stack.enter_context(TemporaryDirectory(prefix="ditq-"))
        bars = stack.enter_context(Bars())
        calibration = calibrated(inner, recorded.images, chosen, amounts, Path(place), bars.advance)
        made = quantize_recipe(
            inner,
            chosen,
            calibration,
            Path(place) / "quantized",
            True,
            seed,
            on_iteration=lambda block, iteration, loss: bars.note(f"block {block}, {iteration}"),
            on_block=lambda block, report: bars.advance("blocks", 1, calibration.cache.blocks),
            on_tuning=lambda step, loss: bars.advance("tuning", 1, tuning.steps if tuning else 0),
        )
        if not keep_cache:
            remove(Path(place) / CACHE)
    return QuantizedModel(inner, replace(made, meta=dict(made.meta)))


@checked_arguments(folder=a_path)
def open_checkpoint(
    folder: str | Path,
    path: str | Path | None = None,
    activations: bool | None = None,
    text_encoders: str = "all",
) -> QuantizedModel:
    """The quantized model in a checkpoint folder, or in what adaround_optimize wrote.

    `path` is a local folder of the float model in place of the download; `activations` False leaves the activations as
    they are. Raises UserError for another kind of folder.
    """
    made = checkpoint.load(Path(folder))
    return QuantizedModel(models.load(made.model, path, None, text_encoders), made, activations)
