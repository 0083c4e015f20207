"""Tests of chunks: results do not depend on them, and they fit into memory."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import nested_jax as nj
from nested_jax.sweeps.engine import _local
from nested_jax.sweeps.engine._chunks import LANES_BYTES, _lengths, chunk_of
from nested_jax.sweeps.engine._job import Job
from nested_jax.sweeps.engine._local import LocalDevices
from nested_jax.sweeps.engine._survey import bytes_carried_by
from nested_jax.sweeps.lanes import _layout
from tests.sweeps.support import (
    DESCENTS,
    FLOAT32_RTOL,
    MEMORY_RTOL,
    descend,
)


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 7, 10, 29, 30, 1000])
def test_results_do_not_depend_on_devices_and_hardly_on_chunks(chunk):
    one, two = (nj.sweep(descend, DESCENTS, chunk=chunk, devices=jax.devices()[:n]) for n in (1, 2))
    assert one.equals(two)
    assert one.attrs["chunk"] <= chunk
    whole = nj.sweep(descend, DESCENTS, chunk=30)
    for name in whole:
        np.testing.assert_allclose(one[name], whole[name], rtol=FLOAT32_RTOL)


def test_a_chunk_does_not_depend_on_the_rest_of_the_grid():
    whole = nj.sweep(descend, DESCENTS, chunk=1)
    part = DESCENTS.sub(rate=[0.3, 0.1], scale=[1.0])
    again = nj.sweep(descend, part, chunk=1)
    assert again.equals(whole.sel(rate=[0.3, 0.1], scale=[1.0]))


def test_the_last_chunk_is_filled_up_and_counted_once(bars):
    grid = nj.Grid(a=[1.0, 2.0, 3.0, 4.0, 0.0], b=[1.0, 2.0])
    for chunk in (2, 4, 6):
        results = nj.sweep(lambda a, b: {"x": b / a}, grid, chunk=chunk)
        np.testing.assert_array_equal(np.isinf(results.x).sum("b"), [0, 0, 0, 0, 2])
        assert bars[-1].diverged == 2
        assert bars[-1]._bar.tasks[0].completed == bars[-1]._bar.tasks[0].total == 10


def test_arrays_bound_to_the_run_may_be_anywhere():
    def run(data, key, offset, a, *, scale):
        return {"x": a * data.sum() * scale + offset, "y": jax.random.normal(key) * a}

    data, key = jnp.arange(3.0), jax.random.key(0)
    expected = nj.sweep(Partial(run, data, key, 1, scale=2.0), nj.Grid(a=[1.0, 2.0]))
    np.testing.assert_array_equal(expected.x, [7, 13])
    for device in jax.devices():
        there, key_there = jax.device_put((data, key), device)
        bound = Partial(run, there, key_there, 1, scale=np.float32(2))
        assert nj.sweep(bound, nj.Grid(a=[1.0, 2.0])).equals(expected)


def waves(shape, chunk, devices=1):
    blocks = math.prod(math.ceil(n / c) for n, c in zip(shape, chunk, strict=True))
    return math.ceil(blocks / devices)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 4), (2, 3, 5), (1, 6, 1)])
def test_chunks_are_as_large_as_allowed_and_as_many_as_there_are_devices(shape):
    points = math.prod(shape)
    for runs in range(1, points + 2):
        chunk = chunk_of(shape, runs)
        assert math.prod(chunk) <= runs
        # Little is filled up: cutting the axes from outside, inner ones whole, is no better.
        assert waves(shape, chunk) * math.prod(chunk) <= 1.5 * points
        shared = chunk_of(shape, points, devices=runs)
        assert waves(shape, shared, runs) * math.prod(shared) <= 2 * math.ceil(points / runs)
    assert chunk_of(shape, points) == shape


def test_an_axis_is_cut_into_every_number_of_parts():
    for n in range(1, 300):
        assert _lengths(n) == sorted({-(-n // parts) for parts in range(1, n + 1)})
    assert len(_lengths(10**7)) < 2 * 10**3.5 + 2


def test_the_axis_that_is_cut_is_cut_evenly_and_the_outermost_first():
    assert chunk_of((10,), 7) == (5,)
    assert chunk_of((4, 10), 39) == (2, 10)
    assert chunk_of((10, 4), 40, devices=3) == (4, 4)
    assert chunk_of((10, 10), 50) == (5, 10)


def test_what_is_shared_along_an_axis_decides_what_is_cut():
    # Half of the work is done once for all of axis 0: axis 1 is cut, and axis 0 kept whole.
    assert chunk_of((10, 10), 50, {0b10: 10.0, 0b11: 1.0}) == (10, 5)
    assert chunk_of((10, 10), 50, {0b01: 10.0, 0b11: 1.0}) == (5, 10)
    assert chunk_of((19, 19, 100), 400, {0b100: 5.0, 0b110: 1.0, 0b111: 1.0}) == (19, 19, 1)
    # More shapes than can be compared.
    assert math.prod(chunk_of((997,) * 4, 1000)) <= 1000


def test_an_automatic_chunk_shares_the_grid_out_over_the_devices():
    for devices in (1, 2):
        results = nj.sweep(descend, DESCENTS, devices=jax.devices()[:devices])
        assert results.attrs["devices"] == devices
        # Shared as evenly as one axis of three, two or five values can be.
        assert 30 / devices <= results.attrs["chunk"] <= 30 / devices * 4 / 3


def bytes_of(run, grid, chunk):
    devices = LocalDevices(jax.devices()[:1])
    return devices.bytes_needed(Job(Partial(run), grid, chunk))


def test_an_automatic_chunk_is_smaller_where_memory_is_short(monkeypatch, compilations):
    one = jax.devices()[:1]
    whole = nj.sweep(descend, DESCENTS, devices=one)
    jax.clear_caches()
    compilations.clear()
    wanted = bytes_of(descend, DESCENTS, (3, 2, 5)) // 3
    monkeypatch.setattr(LocalDevices, "bytes_wanted", lambda self: wanted)
    compilations.clear()
    results = nj.sweep(descend, DESCENTS, devices=one)
    assert len(compilations) <= 2
    assert results.attrs["chunk"] <= 10
    np.testing.assert_allclose(results.loss, whole.loss, rtol=FLOAT32_RTOL)
    monkeypatch.setattr(LocalDevices, "bytes_wanted", lambda self: 1)
    assert nj.sweep(descend, DESCENTS, devices=one).attrs["chunk"] == 1


@pytest.mark.parametrize(("entries", "points"), [(2, None), (30_000, _layout.LANES)])
def test_what_a_loop_carries_in_lanes_fits_a_cache(monkeypatch, entries, points):
    """Unless it would be no lanes any more."""
    monkeypatch.setattr(_layout, "ENTRIES", 10**9)

    def run(rate):
        def step(x, _):
            return jnp.tanh(rate * x), None

        return {"x": jax.lax.scan(step, jnp.full(entries, rate), length=200)[0].sum()}

    grid = nj.Grid(rate=np.linspace(0.1, 0.9, 250_000))
    job = LocalDevices(jax.devices()[:1]).plan(Partial(run), grid, "auto", "auto")
    assert job.layouts("cpu") != (None,)
    assert bytes_carried_by(job, 0) == job.chunk[0] * entries * 4
    if points:
        assert points <= job.chunk[0] < 1.1 * points
    else:
        assert 0.5 * LANES_BYTES < bytes_carried_by(job, 0) <= LANES_BYTES


def test_a_chunk_that_does_not_fit_says_what_to_pass(monkeypatch):
    def wide(rate, scale, seed):
        return {"x": jnp.sort(jnp.full(10000, rate * scale) + seed).sum()}

    needed = bytes_of(wide, DESCENTS, (3, 2, 5))
    available = needed // 4
    monkeypatch.setattr(LocalDevices, "bytes_available", lambda self: available)
    sizes = f"needs {needed / 2**30:.3g} GiB of {available / 2**30:.3g} GiB a device"
    one = jax.devices()[:1]
    with pytest.raises(MemoryError) as caught:
        nj.sweep(wide, DESCENTS, chunk=30, devices=one)
    message = f"`chunk` must fit into memory: one of 30 {sizes}; pass chunk=7 or less."
    assert str(caught.value) == message
    assert 1 < nj.sweep(wide, DESCENTS, chunk=7, devices=one).attrs["chunk"] <= 7
    # Left to itself it fits.
    assert nj.sweep(wide, DESCENTS, devices=one).attrs["chunk"] <= 7


def test_a_container_may_have_less_memory_than_the_machine(monkeypatch, tmp_path):
    devices = LocalDevices(jax.devices()[:2])
    limit, none = tmp_path / "memory.max", tmp_path / "none"
    monkeypatch.setattr(_local, "CONTAINER_LIMITS", (str(none), str(limit)))
    whole = devices.bytes_available()
    limit.write_text("max\n")
    assert devices.bytes_available() == whole
    limit.write_text(f"{2**20}\n")
    assert devices.bytes_available() == int(0.8 * 2**20) // 2


def test_the_program_that_holds_most_decides_on_the_chunk(monkeypatch, compilations):
    def run(word, rate):
        return {"x": jnp.sort(jnp.full({"small": 10, "large": 10_000}[word], rate)).sum()}

    one = jax.devices()[:1]
    grid = nj.Grid(word=["small", "large"], rate=np.linspace(0.0, 1.0, 40))
    needed = bytes_of(run, grid.sub(word=["large"]), (40,))
    monkeypatch.setattr(LocalDevices, "bytes_available", lambda self: needed // 4)
    compilations.clear()
    results = nj.sweep(run, grid, devices=one)
    assert results.attrs["chunk"] <= 10
    # The whole was compiled before; smaller chunks of it, and then the same of the small word.
    assert len(compilations) == 2


def test_a_store_with_chunks_too_large_for_this_machine_says_so(monkeypatch, tmp_path):
    nj.sweep(descend, DESCENTS, chunk=30, store=tmp_path)
    next(tmp_path.glob("chunk-*")).unlink()
    monkeypatch.setattr(LocalDevices, "bytes_available", lambda self: 2)
    with pytest.raises(MemoryError, match="`chunk` must fit into memory: one of 30 needs"):
        nj.sweep(descend, DESCENTS, store=tmp_path)


def test_units_are_kept_with_what_they_are_of():
    grid = nj.Grid(rate=[0.1], scale=[1.0], seed=[0])
    units = {"rate": "1/step", "loss": "squared target"}
    results = nj.sweep(descend, grid, units=units)
    assert {name: results[name].attrs["units"] for name in units} == units
    assert "units" not in results.seed.attrs
    with pytest.raises(TypeError, match=r"`units` must be a dict of words by name, got \{"):
        nj.sweep(descend, grid, units={"rate": 1})
    message = r"`units` must name axes or results \(curve, loss, rate, scale, seed\), got 'decay'\."
    with pytest.raises(ValueError, match=message):
        nj.sweep(descend, grid, units={"decay": "1"})


@pytest.mark.parametrize("chunk", ["auto", 1])
@pytest.mark.parametrize("seeds", [1, 5])
def test_a_run_that_does_not_fit_says_so(monkeypatch, chunk, seeds):
    monkeypatch.setattr(LocalDevices, "bytes_available", lambda self: 2)
    message = (
        r"`chunk` must fit into memory: one of 1 needs .* GiB of 1\.86e-09 GiB a device; a run has "
        r"to be made smaller\."
    )
    with pytest.raises(MemoryError, match=message):
        nj.sweep(descend, nj.Grid(rate=[0.1], scale=[1.0], seed=range(seeds)), chunk=chunk)


@pytest.mark.slow
def test_memory_is_bounded_by_the_chunk_and_flat_in_steps():
    def run(steps, learning_rate, seed):
        problem = nj.drifting_regression(dim=2)
        tx = nj.momentum(learning_rate)
        return {"loss": nj.rollout(tx, problem, jax.random.key(seed), steps).mean_loss}

    small = nj.Grid(learning_rate=[0.1, 0.2], seed=range(4))
    large = nj.Grid(learning_rate=np.geomspace(0.01, 0.2, 20), seed=range(40))
    short = bytes_of(functools.partial(run, 2000), small, (1, 4))
    assert bytes_of(functools.partial(run, 2000), large, (1, 4)) == short
    long = bytes_of(functools.partial(run, 8000), small, (1, 4))
    assert long == pytest.approx(short, rel=MEMORY_RTOL)
