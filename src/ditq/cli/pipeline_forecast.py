"""What each step of the pipeline takes, told before there is anything of it."""

from ditq.activations import ByError, Fixed, PerTimestep
from ditq.calibration import CacheRecipe, ImageRecipe, default_prompts
from ditq.calibration.block_caching import batches
from ditq.calibration.cache_cost import cache_cost
from ditq.cli.forecasts import decision_cost, figures_cost, kept_pictures_cost, on_grid_cost
from ditq.cli.generate_calibration_data import recording_cost
from ditq.cli.pipeline import Pipeline
from ditq.core.cost import Cost
from ditq.diagnostics import InputRecipe, collect_cost, input_shapes
from ditq.models.cost import state_shapes
from ditq.quantization import forecast

DRAWN, ON_GRIDS = 6, 2
"""Sets of pictures in the evaluation, the float model's from other seeds among them, and those with inputs on grids."""


def pipeline_costs(asked: Pipeline) -> dict[str, Cost]:
    """The cost of every step, by name."""
    model, amounts, settings = asked.model, asked.amounts, asked.settings
    network, guided = model.skeleton(), settings.guidance > 1
    height, width, _ = settings.latent_shape(model.geometry)
    recorded = ImageRecipe(amounts.images, asked.seed, amounts.batch_size)
    observed = InputRecipe(amounts.statistics_images, amounts.statistics_stride, amounts.batch_size)
    timesteps = len(range(0, settings.steps, amounts.statistics_stride))
    inputs = input_shapes(
        network, model.geometry, observed, (height, width), amounts.statistics_images, guided
    )
    layers = network.anatomy.paths("block")
    method = PerTimestep(Fixed(8) if isinstance(asked.bits_a, int) else ByError())
    meta = cache_facts(asked)
    expected = forecast(model, asked.recipe, meta, timesteps)
    on_grid = on_grid_cost(model, settings, ON_GRIDS * amounts.prompts)
    evaluation = kept_pictures_cost(model, settings, DRAWN * amounts.prompts, amounts.batch_size)
    return {
        "generate_calibration_data": recording_cost(
            model, settings, recorded, len(default_prompts(model.name))
        ),
        "collect_layer_activations": collect_cost(
            network, observed, inputs, amounts.statistics_images, timesteps, guided
        ),
        "analyze_activations": decision_cost(method, inputs, len(layers), timesteps, 3),
        "cache_adaround_data": cache_cost(meta, len(batches(meta)), len(meta["samples"])),
        "quantize": expected.cost + Cost(bytes=expected.checkpoint + expected.streams, files=3),
        "evaluate": evaluation + on_grid,
        "comparison_page": figures_cost(4),
    }


def cache_facts(asked: Pipeline) -> dict:
    """Of the block cache's metadata, what its cost depends on; there are no pictures yet."""
    model, amounts, network = asked.model, asked.amounts, asked.model.skeleton()
    recipe = CacheRecipe(amounts.cache_images, amounts.cache_stride, batch_size=amounts.batch_size)
    height, width, _ = asked.settings.latent_shape(model.geometry)
    steps = range(0, asked.settings.steps, amounts.cache_stride)
    return {
        **vars(recipe),
        "blocks": network.flow.blocks,
        "latents": [height, width],
        "states": state_shapes(network, model.geometry, height, width),
        "rows_per_sample": 2 if asked.settings.guidance > 1 else 1,
        "samples": [[image, step] for image in range(amounts.cache_images) for step in steps],
    }
