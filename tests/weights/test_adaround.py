"""AdaRound against brute force, finite differences and closed forms; and its promise never to be worse."""

from dataclasses import replace
from itertools import product

import mlx.core as mx
import numpy as np
import pytest

from ditq.core import affine
from ditq.core.errors import UserError
from ditq.core.quantized import QuantizedWeight
from ditq.core.spec import Spec
from ditq.weights import RTN, AdaRound, SequentialGPTQ
from ditq.weights.block_error import block_error, held_out_rows, stream_powers
from ditq.weights.input_grids import inputs_of, inputs_of_result, mse_grid
from ditq.weights.reconstruction import Reconstruction
from ditq.weights.soft_rounding import indecision, settled, start, start_from
from tests.weights.problems import layer_problem, numbers, random_problem

GRIDS = [Spec(4), Spec(2), Spec(8), Spec(3, symmetric=False), Spec(4, group_size=32), Spec(4, False, 64)]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("spec", GRIDS, ids=str)
def test_soft_rounding_begins_at_the_weight_itself(spec):
    weight = mx.array(normal(16, 64))
    rounding, part = start(weight, spec)
    values = rounding.values(settled(part, mx.array(0.5)))
    inside = np.array(rounding.free)
    assert np.abs(np.array(values - weight))[inside].max() <= 1e-6 * float(mx.abs(weight).max())
    assert inside.mean() > 0.8  # the rest lies beyond the ends of a range that was shrunk to its least error
    nearest = affine.dequantize(
        affine.quantize(weight, rounding.scale, rounding.zero, spec), rounding.scale, rounding.zero
    )
    assert np.allclose(np.array(values)[~inside], np.array(nearest)[~inside])


@pytest.mark.parametrize("spec", GRIDS, ids=str)
def test_hard_codes_are_the_floor_or_one_above(spec):
    weight = mx.array(normal(8, 64))
    rounding, _ = start(weight, spec)
    codes = np.array(rounding.hardened(mx.array(normal(8, 64, seed=1)) + 0.5).codes)
    groups = np.repeat(np.array(rounding.scale), 64 // rounding.scale.shape[1], axis=1)
    zeros = np.repeat(np.array(rounding.zero), 64 // rounding.scale.shape[1], axis=1)
    floor = np.floor(np.array(weight) / groups + zeros)
    low, high = (np.clip(floor + up, spec.qmin, spec.qmax) for up in (0, 1))
    assert ((codes == low) | (codes == high)).all()


@pytest.mark.parametrize("beta", [2.0, 7.3, 20.0])
def test_indecision_is_its_closed_form(beta):
    part = np.random.default_rng(0).random((5, 7)).astype(np.float32)
    expected = np.mean(1 - np.abs(2 * part.astype(np.float64) - 1) ** beta)
    assert indecision(mx.array(part), mx.array(beta)).item() == pytest.approx(expected, rel=1e-5)
    assert indecision(mx.array([[0.0, 1.0]]), mx.array(beta)).item() == 0


def test_settling_begins_with_the_surest_and_ends_with_all():
    part = mx.array([[0.0, 0.2, 0.45, 0.5, 0.9, 1.0]])
    assert settled(part, mx.array(0.5)).tolist() == part.tolist()
    assert np.allclose(settled(part, mx.array(0.3)), [[0, 0, 0.45, 0.5, 1, 1]])
    assert settled(part, mx.array(0.0)).tolist() == [[0, 0, 0, 1, 1, 1]]
    gradient = mx.grad(lambda p: (3 * settled(p, mx.array(0.1))).sum())(part)
    assert gradient.tolist() == [[0, 0, 3, 3, 0, 0]]
    assert mx.grad(lambda p: (3 * settled(p, mx.array(0.0))).sum())(part).tolist() == [[3] * 6]


def frozen_rounding(monkeypatch):
    """Makes rounding add what it added at its first evaluation: its derivative is then what straight through claims."""
    residuals, place = [], [0]

    def rounded(x):
        if place[0] == len(residuals):
            residuals.append(mx.stop_gradient(mx.round(x) - x))
        place[0] += 1
        return x + residuals[place[0] - 1]

    monkeypatch.setattr(affine, "straight_through_round", rounded)
    return place


@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize("which", ["parts", "growths", "moves"])
def test_gradients_are_those_of_finite_differences(number, which, monkeypatch):
    problem = random_problem(number, activation_bits=8)
    begun = {path: start(problem.weight(path), spec) for path, spec in problem.specs.items()}
    work = Reconstruction(
        problem, {path: rounding for path, (rounding, _) in begun.items()}, inputs_of(problem),
        stream_powers(problem), 1e-2, AdaRound(drop=0.0), compiled=False,
    )  # fmt: skip
    place, rng = frozen_rounding(monkeypatch), np.random.default_rng(1)
    learned = work.begin({path: part for path, (_, part) in begun.items()})
    # away from the weight itself, where the loss is flat, and from 0 and 1
    learned["parts"] = {
        path: mx.array((0.1 + 0.8 * rng.random(part.shape)).astype(np.float32))
        for path, part in learned["parts"].items()
    }
    # and with steps so short that the extremes lie beyond the grid's ends, not on them
    learned["growths"] = {name: mx.array(-0.1) for name in learned["growths"]}
    rows = np.arange(problem.rows)
    rest = [mx.random.key(0), mx.array(4.0), mx.array(0.3 * (which == "parts")), mx.array(0.5)]

    def loss(some):
        place[0] = 0
        at, carried, quantized, targets = work.batch(rows)
        return work.loss(some, at, {**quantized, **carried}, targets, *rest)[0]

    loss(learned)  # fixes the residuals
    gradient = mx.grad(loss)(learned)[which]
    assert gradient, "nothing is learned"
    # along the gradient's own signs, so that the difference stands far above float32's rounding
    direction = {name: mx.sign(value) for name, value in gradient.items()}
    slope = sum(float((gradient[name] * direction[name]).sum()) for name in gradient)
    size = 2e-3
    ends = [
        float(
            loss({**learned, which: {n: v + sign * size * direction[n] for n, v in learned[which].items()}})
        )
        for sign in (1, -1)
    ]
    assert slope > 0
    assert (ends[0] - ends[1]) / (2 * size) == pytest.approx(slope, rel=0.02)


def test_most_of_the_way_from_rounding_to_the_best_of_all_roundings_is_gone():
    """Twelve weights a row on strongly correlated inputs, the hardest case there is for a descent: every one of the
    4096 roundings of each row is tried. Rounding to nearest is 3 to 6 times as far off as the best; flips, which
    test_flips.py puts to the same test, go the rest of the way."""
    k, rows, spec, closed = 12, 31, Spec(3), []
    for seed in range(4):
        x = normal(rows, 3, seed=seed) @ normal(3, k, seed=seed + 50) + 0.5 * normal(rows, k, seed=seed + 99)
        weight = normal(3, k, seed=seed + 7)
        problem = layer_problem(weight, x, spec)
        rounding, _ = start(mx.array(weight), spec)
        below, free, scale = (np.array(a) for a in (rounding.below, rounding.free, rounding.scale))
        parts = np.array(list(product([0, 1], repeat=k)), np.float32)
        best = sum(
            np.square(((below[row] + parts * free[row]) * scale[row] - weight[row]) @ x.T).mean(axis=1).min()
            for row in range(len(weight))
        )

        def error(result, x=x, weight=weight):
            values = np.array(result.weights["block.layer"].values())
            return np.square((values - weight) @ x.T).mean(axis=1).sum()

        learned = error(AdaRound(iterations=150, batch_size=rows, gptq=0).quantize(problem))
        rounded = error(RTN().quantize(problem))
        assert 0.999 * best <= learned <= rounded * 1.001
        closed.append((rounded - learned) / (rounded - best))
    assert np.mean(closed) > 0.7, closed


@pytest.mark.parametrize(
    "settings", [{"iterations": 0}, {"iterations": 5, "lr": 1e6}, {"iterations": 3, "lr_scale": 3.0}]
)
def test_what_does_not_win_keeps_rounding_and_says_so(settings):
    problem = random_problem(rows=4)
    result, rounded = AdaRound(gptq=0, **settings).quantize(problem), RTN().quantize(problem)
    assert result.report["kept_rounding"] and result.report["kept"] == "rounding"
    assert result.report["error"] == result.report["error_rounding"] == pytest.approx(rounded.report["error"])
    for path, weight in result.weights.items():
        assert (weight.codes == rounded.weights[path].codes).all().item()
    assert numbers(result.activations) == numbers(rounded.activations)


@pytest.mark.parametrize("settings", [{"iterations": 0}, {"iterations": 5, "lr": 1e6}])
def test_what_does_not_win_keeps_the_codes_of_gptq_that_it_began_with(settings):
    problem = random_problem(rows=8)
    result, solved = AdaRound(**settings).quantize(problem), SequentialGPTQ().quantize(problem)
    assert result.report["kept"] == "start" and not result.report["kept_rounding"]
    assert result.report["error"] == pytest.approx(solved.report["error"])
    for path, weight in result.weights.items():
        assert (weight.codes == solved.weights[path].codes).all().item()
    assert numbers(result.activations) == numbers(solved.activations)


@pytest.mark.parametrize("spec", GRIDS, ids=str)
@pytest.mark.parametrize("share", [0.5, 0.75, 1.0])
def test_the_start_from_the_codes_of_a_solver_rounds_to_them(spec, share):
    """Against a loop over all weights, with codes up to three steps off, on scales that clip some weights."""
    rng, weight = np.random.default_rng(3), mx.array(normal(8, 64))
    scale, zero = affine.minmax_range(weight, spec)
    scale = scale * 0.7
    place = np.array(affine.places(weight, scale, zero))
    chosen = np.clip(np.rint(place) + rng.integers(-3, 4, place.shape), spec.qmin, spec.qmax)
    codes = mx.array(chosen.astype(np.int32)).astype(affine.code_dtype(spec))
    rounding, part = start_from(weight, QuantizedWeight(codes, scale, zero, spec), share)
    assert (rounding.hardened(part).codes == codes).all().item()
    below = np.array(rounding.below)
    assert below.min() >= spec.qmin and below.max() + 1 <= spec.qmax
    for at in np.ndindex(*place.shape):
        toward = 1 if place[at] >= chosen[at] else -1
        pair = sorted((chosen[at], chosen[at] + toward))
        if pair[0] < spec.qmin or pair[1] > spec.qmax:  # the grid's ends: the other neighbour
            pair = sorted((chosen[at], chosen[at] - toward))
        assert below[at] == pair[0]
        own = np.clip(place[at] - pair[0], 0.01, 0.99)
        expected = (1 - share) * own + share * (chosen[at] - pair[0])
        assert np.array(part)[at] == pytest.approx(expected, abs=1e-4)


def test_losses_are_told_relative_to_rounding_wherever_the_learning_begins():
    """Of all rows at once, without mixing, the first loss from GPTQ's codes alone is GPTQ's error over rounding's."""
    problem = random_problem(rows=8, spec=Spec(4, group_size=32))
    for share in (0, 0.5):
        told = []
        result = AdaRound(iterations=2, drop=0, gptq=share).quantize(
            problem, lambda _, loss, told=told: told.append(loss)
        )
        assert told == result.report["losses"] and 0 < told[0] < 1
    told, inputs, rows = [], inputs_of(problem), np.arange(problem.rows)
    AdaRound(iterations=1, batch_size=8, drop=0, gptq=1).quantize(problem, lambda _, loss: told.append(loss))
    gptq, rounding = (
        block_error(problem, method.quantize(problem).weights, inputs, rows, stream_powers(problem))
        for method in (SequentialGPTQ(), RTN(search=True))
    )
    assert told == [pytest.approx(gptq / rounding, rel=1e-4)] and abs(gptq / rounding - 1) > 0.05


@pytest.mark.parametrize("family", ["sd3-medium", "sd3.5-medium"])
@pytest.mark.parametrize("number", [0, 2])
def test_a_block_improves_and_its_report_is_true(family, number):
    problem = random_problem(number, rows=8, family=family, spec=Spec(4, group_size=32))
    result = AdaRound(iterations=40, batch_size=8).quantize(problem)
    report = result.report
    assert not report["kept_rounding"] and report["error"] < 0.9 * report["error_rounding"]
    rows = held_out_rows(problem)[1]
    again = block_error(
        problem, result.weights, inputs_of_result(problem, result), rows, stream_powers(problem)
    )
    assert again == pytest.approx(report["error"], rel=1e-5)
    assert set(result.activations) == set(result.weights) == set(problem.specs)
    for stream in ("image", "text"):
        names = [f"{problem.path}.{stream}_transformer_block.attn.{p}_proj" for p in "qkv"]
        assert len({result.activations[name] for name in names}) == 1


def test_two_runs_are_bit_identical_and_another_seed_is_not():
    problem = random_problem(rows=6)
    method = AdaRound(iterations=12, batch_size=2)
    one, same = method.quantize(problem), method.quantize(random_problem(rows=6))
    other = method.quantize(replace(problem, seed=5))
    assert one.report["losses"] == same.report["losses"] != other.report["losses"]
    assert all((one.weights[path].codes == same.weights[path].codes).all().item() for path in one.weights)
    assert numbers(one.activations) == numbers(same.activations)


def test_compiled_step_learns_the_same_and_is_traced_once(monkeypatch):
    problem, traces = random_problem(rows=6), []
    begun = {path: start(problem.weight(path), spec) for path, spec in problem.specs.items()}
    results = []
    for compiled in (False, True):
        work = Reconstruction(
            problem, {path: rounding for path, (rounding, _) in begun.items()}, inputs_of(problem),
            stream_powers(problem), 1.0, AdaRound(iterations=4, batch_size=3), compiled,
        )  # fmt: skip
        whole = work.loss
        monkeypatch.setattr(work, "loss", lambda *args, f=whole: (traces.append(1), f(*args))[1])
        parts = {path: part for path, (_, part) in begun.items()}
        results.append(work.run(parts, np.arange(6), lambda *_: None, lambda _: 0.0))
    assert len(traces) == 4 + 1
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-4)


def test_input_grids_are_centred_only_where_it_pays():
    spec = Spec(8)
    scale, shift = mse_grid(mx.array(np.linspace(-1, 1, 4097, dtype=np.float32)), spec)
    assert scale.item() == pytest.approx(1 / 127, rel=0.02)
    assert shift.item() == 0
    gelu = mx.maximum(mx.array(normal(4096)), -0.17)
    scale, shift = mse_grid(gelu, spec)
    assert shift.item() > 0.5 * float(gelu.max()) - 0.6
    error = mx.square(affine.fake_quant(gelu, scale, shift, spec) - gelu).mean().item()
    full = (float(gelu.max()) - float(gelu.min())) / 255
    assert error <= 1.05 * full**2 / 12


def test_bad_settings_are_named():
    for wrong in ({"iterations": -1}, {"warmup": 1.5}, {"drop": float("nan")}, {"batch_size": 0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            AdaRound(**wrong)


@pytest.mark.parametrize("drop", [0, 1])
def test_whole_numbers_serve_as_shares(drop):
    problem = layer_problem(normal(4, 8), normal(12, 8), Spec(4))
    errors = [
        AdaRound(iterations=3, drop=kind(drop)).quantize(problem).report["error"] for kind in (int, float)
    ]
    assert errors[0] == errors[1]
