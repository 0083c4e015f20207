"""Tests of values that are checked against the rules of the factories that they reach."""

import math
import re

import jax
import pytest

import nested_jax as nj


def optimize(rate, decay=0.9, levels=1, kind="nested"):
    if kind == "plain":
        nj.momentum(2 * rate)  # Not the axis's value itself.
    else:
        nj.nested_momentum(rate, levels=levels, decay=decay, max_levels=4)
    return {"x": rate * decay}


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (
            {"rate": [0.1, 0.2, -1.0]},
            "`rate`[2] = -1.0: `learning_rate` must be non-negative and finite, got -1.0.",
        ),
        (
            {"rate": [0.1, math.inf]},
            "`rate`[1] = inf: `learning_rate` must be non-negative and finite, got inf.",
        ),
        (
            {"rate": [0.1], "decay": [1.5, 0.5]},
            "`decay`[0] = 1.5: `decay` must lie in [0, 1), got 1.5.",
        ),
        # What it is in float32 counts.
        (
            {"rate": [0.1], "decay": [0.5, 0.99999999]},
            "`decay`[1] = 0.99999999: `decay` must lie in [0, 1), got 1.0.",
        ),
        (
            {"rate": [0.1], "levels": [1, 4, 5]},
            "`levels`[2] = 5: `levels` must be at most `max_levels` = 4, got 5.",
        ),
        (
            {"rate": [0.1], "levels": [0]},
            "`levels`[0] = 0: `levels` must be an integer of at least 1, got 0.",
        ),
        (
            {"draw": nj.zipped(rate=[0.1, 0.1], decay=[0.9, -0.25])},
            "`decay`[1] = -0.25: `decay` must lie in [0, 1), got -0.25.",
        ),
        # Only the second of the programs asks.
        (
            {"kind": ["plain", "nested"], "rate": [0.1, -1.0]},
            "`rate`[1] = -1.0: `learning_rate` must be non-negative and finite, got -1.0.",
        ),
    ],
)
def test_values_are_checked_before_anything_is_compiled(axes, message, compilations, tmp_path):
    good = {"rate": [0.1], "decay": [0.9], "levels": [2], "kind": ["nested"]}
    for store in (tmp_path / "store", None, None):  # At last the program is traced already.
        with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
            nj.sweep(optimize, nj.Grid(**axes), store=store)
    assert not compilations
    assert not (tmp_path / "store").exists()
    nj.sweep(optimize, nj.Grid(**good))


def lasting(steps, warmup):
    problem = nj.drifting_regression(2)
    trace = nj.rollout(nj.momentum(0.1), problem, jax.random.key(0), 50, warmup=warmup)
    schedule = nj.with_warmup(nj.constant(steps), steps)
    return {"x": trace.mean_loss * schedule(3) * nj.cosine(steps)(3)}


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (
            {"warmup": [0, 49, 50], "steps": [9]},
            "`warmup`[2] = 50: `warmup` must be less than `steps` = 50, got 50.",
        ),
        (
            {"warmup": [0], "steps": [5, 2.5]},
            "`steps`[1] = 2.5: `total_steps` must be a whole number of at least 1, got 2.5.",
        ),
        (
            {"warmup": [0], "steps": [0, 5]},
            "`steps`[0] = 0: `total_steps` must be a whole number of at least 1, got 0.",
        ),
    ],
)
def test_lengths_are_checked_too(axes, message):
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        nj.sweep(lasting, nj.Grid(**axes))


def test_a_fraction_is_checked_against_its_neighbours():
    def drop(at):
        return {"x": nj.step_drop(10, drops=[0.5, at, 0.9])(6)}

    message = "`at`[1] = 0.25: `drops` must increase from above 0, got [0.5, 0.25, 0.9]."
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        nj.sweep(drop, nj.Grid(at=[0.75, 0.25]))
    with pytest.raises(ValueError, match=r"^`at`\[1\] = 0\.95: `drops` must increase"):
        nj.sweep(drop, nj.Grid(at=[0.75, 0.95]))


def test_values_of_a_second_sweep_are_checked_too():
    grid = nj.Grid(rate=[0.1, 0.2], levels=[1, 4])
    nj.sweep(optimize, grid)
    for axes, name in (({"rate": [0.1, -0.2]}, "rate"), ({"levels": [1, 7]}, "levels")):
        with pytest.raises(ValueError, match=rf"^`{name}`\[1\] = "):
            nj.sweep(optimize, nj.Grid(**({"rate": [0.1, 0.2], "levels": [1, 4]} | axes)))
    assert nj.sweep(optimize, grid).x.shape == (2, 2)


def test_only_values_that_arrive_unchanged_are_checked():
    assert nj.sweep(optimize, nj.Grid(kind=["plain"], rate=[-0.1])).x.size == 1
