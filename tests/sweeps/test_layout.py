"""Tests of how a chunk's points are laid out: which pieces there are, and what they compute."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.tree_util import Partial

import nested_jax as nj
from nested_jax.sweeps.engine._evaluation import evaluate
from nested_jax.sweeps.engine._job import Job
from nested_jax.sweeps.engine._local import LocalDevices
from nested_jax.sweeps.engine._tracing import program_of
from nested_jax.sweeps.lanes import _layout

RTOL = 1e-12  # Some steps of float64, each a few roundings.
ATOL = 1e-13  # Where terms of order 1 cancel.
RUN_RTOL = 1e-9  # 120 steps of an optimizer, of which some divide by what is small.
STAGES = 4


def job_of(run, chunk=None, **axes):
    """Return the job of a grid, in one chunk if no other is given."""
    grid = nj.Grid(**axes)
    return Job(Partial(run), grid, chunk or grid.shape)


def layout_of(run, **axes):
    """Return the layout of a grid in one chunk."""
    return job_of(run, **axes).layouts("cpu")[0]


def outputs(job, layout, index=0):
    """Return a chunk's outputs."""
    columns = job.columns(index)
    program = program_of((), job.run, columns)
    lowered = evaluate.lower((), layout, program, job.run, columns)
    # What LLVM makes of it is tested with whole sweeps: most of the time of a test is its.
    program = lowered.compile({"xla_backend_optimization_level": 0})
    return jax.device_get(program(job.run, columns))


def in_lanes(job, index=0):
    """Return a chunk's outputs as it is laid out."""
    (layout,) = job.layouts("cpu")
    assert layout is not None
    return outputs(job, layout, index)


def assert_is_vmap(job, rtol=RTOL, index=0):
    """Raise unless a chunk is what it is vmapped."""
    actual, expected = in_lanes(job, index), outputs(job, None, index)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert (actual[name].shape, actual[name].dtype) == (value.shape, value.dtype)
        np.testing.assert_allclose(actual[name], value, rtol, ATOL, err_msg=name)


def loop(body):
    """Return a run of four steps of `body`, a function of (x, a, rate)."""

    def run(a, rate):
        step = lambda x, _: (body(x, a, rate), None)  # noqa: E731
        return {"x": lax.scan(step, jnp.ones(3), length=4)[0]}

    return run


def staged(levels, rate=0.5, shift=0.0, other=1.0):
    """Return what comes of steps in which each level is a sine."""

    def step(x, _):
        for i in range(STAGES):
            x = jnp.where(levels > i, jnp.sin(x + rate * shift), x)
        return rate * x + other, x.sum()

    last, sums = lax.scan(step, jnp.arange(3.0), length=4)
    return {"last": last, "sums": sums, "levels": levels}


# --- Grids ---

LEVELS = [3, 1, 4, 2]
GRIDS = {
    "one": {"levels": LEVELS},
    "first": {"levels": LEVELS, "rate": [0.3, 0.5, 0.9]},
    "last": {"rate": [0.3, 0.5, 0.9], "levels": LEVELS},
    "middle of three": {"rate": [0.3, 0.5], "levels": [5, 1, 19, 2, 3], "shift": [0.1, 0.2, 0.3]},
    "four": {"shift": [0.3, 0.1], "rate": [0.3, 0.5], "levels": LEVELS, "other": [1.0, -1.0]},
    "lengths of one": {"shift": [0.3], "levels": LEVELS, "rate": [0.3], "other": [1.0, -1.0]},
    "one level": {"levels": [2], "rate": [0.3, 0.5, 0.9]},
    "zipped": {"draw": nj.zipped(rate=[0.1, 0.2, 0.3, 0.4], levels=LEVELS), "shift": [0.1, 0.2]},
    "zipped, repeated": {"draw": nj.zipped(shift=[0.1, 0.2, 0.3, 0.4], levels=[2, 1, 2, 1])},
    "two of levels": {"levels": [2, 1, 3], "other": [4, 2, 3, 1]},
}


@pytest.mark.parametrize("axes", GRIDS.values(), ids=GRIDS)
def test_results_are_in_the_order_of_the_grid(x64, small, axes):
    assert_is_vmap(job_of(staged, **axes))


@pytest.mark.parametrize("rates", [7, 8, 9, 63, 64, 65])
def test_any_number_of_lanes(x64, small, rates):
    job = job_of(staged, levels=[2, 1], rate=np.linspace(0.1, 0.9, rates))
    assert len(job.layouts("cpu")[0].pieces) == 2
    assert_is_vmap(job)


def test_points_that_choose_alike_lie_together(small):
    layout = layout_of(staged, rate=[0.1, 0.2], levels=[9, 1, 4, 2, 1000, 3])
    assert layout.axis == 1
    # All beyond the stages are alike, and the order is that of the grid within a piece.
    assert layout.pieces == ((1, 3), (0, 5), (2,), (4,))
    assert layout_of(staged, levels=[7, 8, 9], rate=[0.1, 0.2]).axis == -1


@pytest.mark.parametrize(
    ("rates", "pieces", "x64"),
    [
        (29, 1, False),
        (30, 2, False),
        (44, 2, False),
        (45, 3, False),
        (60, 4, False),
        (90, 4, False),
        # In float64 a vector holds fewer.
        (22, 1, True),
        (23, 2, True),
        (45, 4, True),
    ],
)
def test_pieces_are_as_many_as_fill_their_lanes(monkeypatch, rates, pieces, x64):
    monkeypatch.setattr(_layout, "STEPS", 4)
    with jax.enable_x64(x64):
        layout = layout_of(staged, levels=LEVELS, rate=np.linspace(0.1, 0.9, rates))
    assert len(layout.pieces) == pieces


def test_the_axis_of_most_choices_is_in_pieces(small):
    def run(few, many, rate):
        x = staged(many, rate)["last"]
        return {"x": x, "y": staged(few)["last"] * jnp.where(few > 1, rate, 1.0)}

    assert layout_of(run, few=[5, 6], many=[1, 2, 3], rate=[0.1, 0.2]).axis == 1


# --- Chunks ---


def test_an_axis_that_is_cut_is_in_no_pieces(x64, small):
    axes = {"levels": [3, 1, 4, 2, 2 + 5], "rate": [0.3, 0.5, 0.9]}
    cut, whole = job_of(staged, (2, 3), **axes), job_of(staged, (5, 2), **axes)
    assert cut.layouts("cpu")[0].axis == -1
    assert len(whole.layouts("cpu")[0].pieces) == 4
    # Other numbers, the same program.
    other = job_of(staged, (2, 3), levels=[9, 8, 7, 6, 5], rate=[3.0, 1.0, 2.0])
    assert other.layouts("cpu") == cut.layouts("cpu")
    for index in range(cut.chunks):
        assert_is_vmap(cut, index=index)
    assert_is_vmap(whole, index=1)


def test_other_numbers_that_choose_alike_are_no_other_program(small):
    levels = {"levels": [1, 2, 3, 4, 5, 6, 7, 8]}
    layouts = {
        layout_of(staged, **levels, rate=rates) for rates in ([0.1, 0.2], [0.9, 0.3], [-5.0, 7.0])
    }
    assert len(layouts) == 1


def test_a_grid_that_chooses_alike_is_not_compiled_again(small):
    compiled = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration)

    def compilations(rate, levels):
        job = job_of(run, (2, 4), rate=rate, levels=levels)
        before = len(compiled)
        assert len([*devices.evaluate(job, range(job.chunks))]) == 2
        return len(compiled) - before

    devices, run = LocalDevices(jax.devices()[:1]), Partial(staged)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        # Two chunks, each of all levels.
        assert compilations(rate=[0.1, 0.2, 0.3, 0.4], levels=LEVELS)
        assert compilations(rate=[0.9, 0.7, 0.5, 0.3], levels=LEVELS) == 0
        assert compilations(rate=[0.9, 0.7, 0.5, 0.3], levels=[3, 1, 7, 2]) == 0
        assert compilations(rate=[0.9, 0.7, 0.5, 0.3], levels=[1, 3, 4, 2])  # Other pieces.
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("chunk", [(4, 2), (2, 5), (3, 3)])
def test_bits_do_not_depend_on_the_number_of_devices(small, chunk):
    grid = nj.Grid(levels=LEVELS, rate=np.linspace(0.1, 0.9, 5))
    job = Job(Partial(staged), grid, chunk)
    assert job.layouts("cpu")[0] is not None
    devices = jax.devices()[:2]
    assert len(devices) == 2
    first, second = (
        dict(itertools.chain(*LocalDevices(each).evaluate(job, range(job.chunks))))
        for each in (devices[:1], devices)
    )
    for index in range(job.chunks):
        for name, value in first[index].items():
            np.testing.assert_array_equal(second[index][name], value)
            columns = job.columns(index)
            program = program_of((), job.run, columns)
            expected = np.asarray(evaluate((), None, program, job.run, columns)[name])
            np.testing.assert_allclose(value, expected, rtol=1e-5)


# --- Runs beside each other ---


def sines_of(levels):
    """Return how many sines there are in the program of a few levels."""

    def run(levels, rate):
        def step(x, _):
            for i in range(STAGES):
                x = jnp.where(levels > i, jnp.sin(x), x)
            return rate * x, None

        return {"x": lax.scan(step, jnp.arange(3.0), length=4)[0]}

    job = job_of(run, levels=levels, rate=[0.1, 0.2])
    columns = job.columns(0)
    program = program_of((), job.run, columns)
    lowered = evaluate.lower((), job.layouts("cpu")[0], program, job.run, columns)
    return lowered.compile().as_text().count(" sine(")


@pytest.mark.parametrize(
    ("levels", "sines"),
    [([4, 5, 6], 4), ([1, 2, 3, 4], 10), ([4, 1], 5), ([0, 9, -2], 4), ([0, -1], 0)],
)
def test_what_a_piece_lacks_is_not_computed(small, levels, sines):
    # One program for each piece; in one of a single piece every stage is there.
    assert sines_of(levels) == sines


def test_pieces_of_several_points_lack_what_all_of_these_do(small, monkeypatch):
    monkeypatch.setattr(_layout, "LANES_OF_A_PIECE", {4: 4, 8: 4})
    assert sines_of([1, 4, 3, 2]) == 2 + 4


def stream(rate, seed, levels=2, decay=0.5, max_levels=4):
    tx = nj.nested_momentum(rate, levels=levels, decay=decay, max_levels=max_levels)
    problem = nj.drifting_regression(3, data_levels=2, decay=0.9)
    trace = nj.rollout(tx, problem, jax.random.key(seed), 120, stride=40)
    return {"loss": trace.mean_loss, "curve": trace.loss_curve, "diverged_at": trace.diverged_at}


@pytest.mark.parametrize("wide", [False, True])
def test_infinite_and_nan_runs_stay_where_they_are(monkeypatch, wide):
    monkeypatch.setattr(_layout, "FOREIGN_SHARE", 1.0)  # Few runs share their draws.
    finite = [*np.linspace(0.001, 0.1, 30)]
    rates = [*finite[:15], np.inf, 3.0, 1e30, *finite[15:], 300.0]
    with jax.enable_x64(wide):
        axes = {"levels": [3, 1, 4], "seed": range(2)}
        job = job_of(stream, rate=rates, **axes)
        actual, expected = in_lanes(job), outputs(job, None)
        alone = in_lanes(job_of(stream, rate=finite, **axes))
    at = [rates.index(rate) for rate in finite]
    tolerance = RUN_RTOL if wide else 1e-4  # 120 steps of float32.
    for name, value in expected.items():
        for kind in (np.isposinf, np.isneginf, np.isnan):
            np.testing.assert_array_equal(kind(actual[name]), kind(value))
        np.testing.assert_allclose(actual[name][at], alone[name], tolerance)
        np.testing.assert_allclose(actual[name][at], value[at], tolerance)
    assert np.isfinite(actual["loss"][at]).all()
    assert not np.isfinite(actual["loss"][[rates.index(math.inf), rates.index(1e30)]]).any()


def test_levels_out_of_range_are_nan(x64):
    job = job_of(stream, levels=[9, 4, 0, 1, -3], rate=np.linspace(0.01, 0.1, 40), seed=[0])
    assert_is_vmap(job, RUN_RTOL)
    loss = in_lanes(job)["loss"]
    assert np.isfinite(loss[[1, 3]]).all()
    assert np.isnan(loss[[0, 2, 4]]).all()
