"""The layers outside the blocks: whole prompts are held out, and a row that comes back counts once."""

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np

from ditq.calibration import BlockCache, first_of_prompt
from ditq.quantization import assigned
from ditq.quantization.outside_blocks import _begins, distinct_rows, pictures_of, rows_of_prompts
from tests.quantization.test_driver import given, mixed  # noqa: F401 (a fixture)


def cache_of(prompts, steps=4):
    """The cache of guided pictures with these prompts; the conditioning is a number for each prompt, 0 the negative."""
    samples = [(image, step) for image in range(len(prompts)) for step in range(steps)]
    kinds = sorted(set(prompts))
    numbers = [[1.0 + kinds.index(prompts[image]), 0.0] for image, _ in samples]
    return BlockCache(
        Path("nowhere"),
        {"prompts": {str(image): prompt for image, prompt in enumerate(prompts)}, "rows_per_sample": 2},
        samples,
        np.repeat([1000.0 - 100 * step for _, step in samples], 2).astype(np.float32),
        {"pooled": np.array(numbers, np.float32).reshape(-1, 1)},
    )


def test_pictures_with_one_prompt_are_one():
    assert first_of_prompt({3: "a", 5: "b", 8: "a", 9: "b"}) == {3: 3, 5: 5, 8: 3, 9: 5}
    assert pictures_of(cache_of(["a", "b", "a"], steps=2)).tolist() == [0] * 4 + [1] * 4 + [0] * 4


def test_distinct_rows_are_the_first_of_their_kind():
    rng = np.random.default_rng(0)
    times, pooled = rng.integers(0, 3, 60), rng.integers(0, 2, (60, 2)).astype(np.float32)
    but = np.arange(5)
    found = distinct_rows(range(10, 60), [times, pooled], but)
    kinds = [(times[row], *pooled[row]) for row in range(60)]
    expected, seen = [], set(kinds[:5])
    for row in range(10, 60):
        if kinds[row] not in seen:
            expected.append(row)
            seen.add(kinds[row])
    assert found == expected and 0 < len(found) < 12


def test_prompts_that_judge_are_not_solved_with_and_the_negative_one_counts_once():
    """16 prompts, two pictures each: two prompts judge, with both of their pictures."""
    cache = cache_of([f"prompt {number:02}" for number in range(16)] * 2)
    parts = rows_of_prompts(cache)
    assert [held_out for _, held_out in parts] == [False, True]
    pooled, times = cache.conditioning["pooled"][:, 0], cache.timesteps
    used, judging = (pooled[rows].tolist() for rows, _ in parts)
    assert len(used) == 14 * 4 + 4 and used.count(0.0) == 4  # the negative prompt: once for each step
    assert len(judging) == 2 * 4 and 0.0 not in judging and not set(used) & set(judging)
    for rows, _ in parts:
        assert len({(times[row], pooled[row]) for row in rows}) == len(rows)


def test_where_nothing_new_would_judge_all_rows_serve_for_both():
    ((rows, held_out),) = rows_of_prompts(cache_of(["the same"] * 40))
    assert held_out is None and len(rows) == 2 * 4


def test_the_first_state_s_rows_of_the_negative_prompt_count_once(given):  # noqa: F811
    model, calibration = given
    samples = [(image, step) for image in range(3) for step in (0, 2)]
    cache = replace(cache_of(["a", "b", "c"], 2), samples=samples)
    todo = assigned(model.kept, mixed())
    batch, *_ = _begins(model.kept, todo, replace(calibration, cache=cache))
    state = batch.run()
    assert state["text"].shape[0] == 6 and batch.rows.tolist() == [0, 1, 2, 3] and batch.held_out is None
    assert all(mx.allclose(state["text"][3], state["text"][row], rtol=1e-4, atol=1e-5) for row in (4, 5))
