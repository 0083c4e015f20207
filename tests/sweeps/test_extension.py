"""Tests of a grid that extends that of its store: only new points are computed."""

import itertools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nested_jax as nj
from nested_jax.sweeps import _extension
from nested_jax.sweeps.engine._store import MANIFEST
from tests.sweeps.stored import GRID, chunks, run, sweep

RATES, SEEDS = [0.1, 0.2, 0.3], [0, 1, 2]
alone = jax.jit(run, static_argnames="word")


def grid(word=("a", "bc"), rate=RATES, seed=SEEDS):
    return nj.Grid(word=word, rate=rate, seed=seed)


def assert_is_whole(results, whole):
    """Check a sweep in parts against the function itself, called at each point."""
    assert results.sizes == {**dict(zip(whole, whole.shape, strict=True)), "noise_0": 3}
    for at, point in zip(np.ndindex(*whole.shape), whole.points(), strict=True):
        expected = alone(**point)
        for name in ("loss", "noise"):
            # In another program, and so rounded differently.
            np.testing.assert_allclose(results[name].values[at], expected[name], rtol=1e-5)


# The new grid, and the number of its parts with the store.
LARGER = {
    "outer values": (grid(rate=[*RATES, 0.4, 0.5]), 2),
    "inner values": (grid(seed=[*SEEDS, 3]), 2),
    "values between": (grid(rate=[0.05, 0.1, 0.15, 0.2, 0.3]), 2),
    "another order": (grid(rate=RATES[::-1], seed=[2, 0, 1, 5]), 2),
    "static values": (grid(word=["a", "def", "bc"]), 2),
    "all axes": (grid(["a", "bc", "def"], [*RATES, 0.4], [*SEEDS, 3, 4]), 4),
    "the order alone": (grid(("bc", "a"), RATES[::-1]), 1),
}


@pytest.mark.parametrize(("case", "devices"), [*((case, 1) for case in LARGER), ("all axes", 2)])
def test_only_new_points_are_computed(tmp_path, runs, case, devices):
    whole, parts = LARGER[case]
    first = sweep(tmp_path, devices=jax.devices()[:1])
    before = {path.name: path.read_bytes() for path in chunks(tmp_path)}
    runs.clear()
    results = sweep(tmp_path, grid=whole, devices=jax.devices()[:devices])
    assert sum(runs) == whole.size - GRID.size
    assert len([*tmp_path.glob("more-*")]) == parts - 1
    assert_is_whole(results, whole)
    # The old points have their bits.
    old = {name: GRID[name].columns[name].tolist() for name in GRID}
    assert results.sel(old).equals(first)
    assert {path.name: path.read_bytes() for path in chunks(tmp_path)} == before
    runs.clear()
    assert sweep(tmp_path, grid=whole).equals(results)
    assert not runs
    # The store still is that of its own grid.
    assert sweep(tmp_path).equals(first)
    assert not runs


def test_a_store_may_be_extended_again_and_another_way(tmp_path, runs):
    steps = [
        (grid(seed=[0, 1, 2, 3]), 6),
        (grid(seed=[0, 1, 2, 3, 4]), 6),
        (grid(rate=[*RATES, 0.4]), 6),  # Lacks the seeds 3 and 4.
        (grid(rate=[*RATES, 0.4], seed=[0, 1, 2, 3, 4]), 4),
    ]
    sweep(tmp_path)
    for larger, new in steps:
        runs.clear()
        assert_is_whole(sweep(tmp_path, grid=larger), larger)
        assert sum(runs) == new
    runs.clear()
    for larger, _ in steps:
        sweep(tmp_path, grid=larger)
    assert not runs


@pytest.mark.parametrize("lost", [0, 1, 4, 5])
def test_a_killed_extension_goes_on_with_the_same_bits(tmp_path, runs, lost):
    """Whatever an extension had written when it was killed, the rest comes out as it was."""
    larger = grid(rate=[*RATES, 0.4], seed=[*SEEDS, 3, 4])
    sweep(tmp_path / "whole")
    whole = sweep(tmp_path / "whole", grid=larger)
    sweep(tmp_path / "killed")
    sweep(tmp_path / "killed", grid=larger)
    # In the order in which they were written: the manifest is the first of a part.
    files = [*(tmp_path / "killed").glob("more-*/*")]
    files.sort(key=lambda path: (path.parent, path.name != MANIFEST, path.name))
    for path in files[lost:]:
        path.unlink()
    for folder in (tmp_path / "killed").glob("more-*"):
        if not any(folder.iterdir()) and lost % 2:
            folder.rmdir()
    runs.clear()
    again = sweep(tmp_path / "killed", grid=larger)
    assert runs
    assert again.equals(whole)
    assert again.attrs["configuration"] == whole.attrs["configuration"]
    same = [{str(p.relative_to(f)) for p in f.rglob("*")} for f in tmp_path.iterdir()]
    assert same[0] == same[1]


def test_a_store_that_is_not_complete_may_be_extended(tmp_path, runs):
    first = sweep(tmp_path)
    chunks(tmp_path)[2].unlink()
    runs.clear()
    larger = grid(seed=[*SEEDS, 3])
    results = sweep(tmp_path, grid=larger)
    assert sum(runs) == 3 + 6
    assert results.sel(seed=SEEDS).equals(first)


def test_zipped_values_are_points_and_may_repeat(tmp_path, runs):
    def multiply(rate, decay, seed):
        return {"x": rate * decay + seed}

    def draws(rate, decay):
        return nj.Grid(draw=nj.zipped(rate=rate, decay=decay), seed=[0, 1])

    nj.sweep(multiply, draws([1.0, 1.0, 2.0], [0.5, 0.5, 0.5]), store=tmp_path)
    runs.clear()
    larger = draws([2.0, 1.0, 1.0, 1.0, 2.0], [0.5, 0.5, 0.25, 0.5, 0.25])
    results = nj.sweep(multiply, larger, store=tmp_path)
    assert sum(runs) == 4
    np.testing.assert_array_equal(results.x.sel(seed=0), [1.0, 0.5, 0.25, 0.5, 0.5])
    assert [*results.draw.values] == [*range(5)]
    # One repetition fewer is not an extension.
    with pytest.raises(ValueError, match="they differ in grid"):
        nj.sweep(multiply, draws([1.0, 2.0], [0.5, 0.5]), store=tmp_path)


def test_beside_a_long_axis_which_the_manifest_only_has_as_a_hash(tmp_path, runs):
    def add(x, seed):
        return {"sum": x + seed}

    long = np.arange(1500.0)
    nj.sweep(add, nj.Grid(x=long, seed=[0, 1]), store=tmp_path)
    runs.clear()
    results = nj.sweep(add, nj.Grid(x=long, seed=[0, 1, 2]), store=tmp_path)
    assert sum(runs) == 1500
    np.testing.assert_array_equal(results["sum"], long[:, None] + np.arange(3))
    with pytest.raises(ValueError, match="they differ in grid"):
        nj.sweep(add, nj.Grid(x=[*long, 1500.0], seed=[0, 1]), store=tmp_path)


def test_without_a_store_or_with_a_new_one_a_grid_is_one_part(tmp_path):
    assert [part.store for part in _extension.parts_of(GRID, None)] == [None]
    results = sweep(tmp_path)
    assert not [*tmp_path.glob("more-*")]
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    assert results.attrs["configuration"] == manifest["hash"]


@pytest.mark.parametrize(
    ("smaller", "differ"),
    [
        ({"grid": grid(seed=[0, 1])}, "grid: pass a grid that has its points or"),
        ({"grid": grid(rate=[0.1, 0.2, 0.35, 0.4])}, "grid: pass a grid that has its points or"),
        ({"grid": grid(rate=[*RATES, 0.4]), "layout": "lanes"}, "programs: pass"),
    ],
)
def test_what_is_no_extension_is_refused(tmp_path, runs, smaller, differ):
    sweep(tmp_path, layout="vmap")
    runs.clear()
    options = {"layout": "vmap"} | smaller
    with pytest.raises(ValueError, match=f"they differ in {differ} another folder"):
        sweep(tmp_path, **options)
    assert not runs
    assert not [*tmp_path.glob("more-*")]


def test_another_function_is_refused_on_a_larger_grid_too(tmp_path, runs):
    sweep(tmp_path)
    runs.clear()

    def other(word, rate, seed):
        results = run(word, rate, seed)
        return results | {"loss": 2 * results["loss"]}

    with pytest.raises(ValueError, match="they differ in programs"):
        sweep(tmp_path, other, grid(seed=[*SEEDS, 3]))
    # Of a value that would be new, too.
    with pytest.raises(TypeError, match="`rate` must hold"):
        grid(rate=[*RATES, "0.4"])
    assert not runs


def test_chunks_of_an_extension_are_counted(tmp_path):
    larger = grid(seed=[*SEEDS, 3])
    sweep(tmp_path)
    assert nj.sweeps.stored_chunks(tmp_path, larger) == (6, 6)
    sweep(tmp_path, grid=larger)
    assert nj.sweeps.stored_chunks(tmp_path, GRID) == (6, 6)
    assert nj.sweeps.stored_chunks(tmp_path, larger) == (8, 8)
    chunks(next(tmp_path.glob("more-*")))[0].unlink()
    assert nj.sweeps.stored_chunks(tmp_path, larger) == (7, 8)
    with pytest.raises(ValueError, match="must be of this grid or of a part of it"):
        nj.sweeps.stored_chunks(tmp_path, grid(seed=[0, 1]))


def test_the_bar_counts_the_whole_grid(tmp_path, bars):
    larger = grid(seed=[*SEEDS, 3])
    sweep(tmp_path)
    sweep(tmp_path, grid=larger)
    (task,) = bars[-1]._bar.tasks
    assert (task.completed, task.total) == (larger.size, larger.size)


def test_a_sweep_that_stops_runs_keeps_its_grid(tmp_path):
    def staged(x, seed):
        return nj.Stages(
            lambda: jnp.float32(0.0),
            lambda carry, stage: carry + x,
            lambda carry: {"loss": carry + seed},
            stages=3,
        )

    rule = nj.sweeps.halving(by="loss")
    nj.sweep(staged, nj.Grid(x=[1.0, 2.0, 3.0], seed=[0, 1]), stop=rule, store=tmp_path)
    with pytest.raises(ValueError, match="they differ in grid: pass another folder") as caught:
        nj.sweep(staged, nj.Grid(x=[1.0, 2.0, 3.0, 4.0], seed=[0, 1]), stop=rule, store=tmp_path)
    assert not re.search("has its points", str(caught.value))


def test_blocks_without_another_cover_the_rest_once():
    """All pairs of blocks of a grid of 3 × 3 × 2."""
    subsets = [
        [tuple(c) for r in range(1, n + 1) for c in itertools.combinations(range(n), r)]
        for n in (3, 3, 2)
    ]
    blocks = [*itertools.product(*subsets)]

    def points(block):
        return [*itertools.product(*block)]

    for one, other in itertools.product(blocks[::5], blocks):
        rest = [point for piece in _extension._without(one, other) for point in points(piece)]
        assert len(rest) == len({*rest})
        assert {*rest} == {*points(one)} - {*points(other)}
