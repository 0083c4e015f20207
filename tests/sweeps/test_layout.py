"""Tests of how a chunk's points are laid out: which programs have lanes, and which pieces."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.tree_util import Partial

import nested_jax as nj
from nested_jax.sweeps.engine import _tracing
from nested_jax.sweeps.engine._job import Job
from nested_jax.sweeps.engine._local import LocalDevices
from nested_jax.sweeps.engine._tracing import evaluate
from nested_jax.sweeps.lanes import _layout

RTOL = 1e-12  # Some steps of float64, each a few roundings.
ATOL = 1e-13  # Where terms of order 1 cancel.
RUN_RTOL = 1e-9  # 120 steps of an optimizer, of which some divide by what is small.
STAGES = 4


@pytest.fixture
def small(monkeypatch):
    """Let lanes, and pieces, pay for short loops over few points."""
    monkeypatch.setattr(_layout, "STEPS", 2)
    monkeypatch.setattr(_layout, "LANES", 2)
    monkeypatch.setattr(_layout, "LANES_OF_A_PIECE", {4: 1, 8: 1})


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
    lowered = evaluate.lower((), layout, job.run, columns)
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
            expected = np.asarray(evaluate((), None, job.run, job.columns(index))[name])
            np.testing.assert_allclose(value, expected, rtol=1e-5)


# --- What is known of numbers ---


def inverse_of_sum(a, rate):
    """Return what tells the signs of zero apart."""
    step = lambda x, _: (x + rate / (a + a), None)  # noqa: E731
    return {"x": lax.scan(step, jnp.zeros(()), length=4)[0]}


RATES = [0.5, 1.0, 2.0]
KNOWN = {
    "not by name": (lambda x, a, r: jnp.where(a == 1, x * r, x + r), [1.0, 2.0, 3.0]),
    "infinite": (lambda x, a, r: jnp.where(a - a >= 0, x * a, x * r), [np.inf, 1.0, 2.0]),
    "overflow": (lambda x, a, r: jnp.where(a + a > 4, x * 1.5, x * r), [1.7e308, 1.0, 2.0]),
    "to an integer": (lambda x, a, r: jnp.where(a.astype(int) > 3, x * 1.5, x * r), [1e30, 1, 5]),
    "to fewer bits": (
        lambda x, a, r: jnp.where(a.astype(jnp.int8) > 3, x * 1.5, x * r),
        [300, 2, 5],
    ),
    "flushed": (lambda x, a, r: jnp.where(a == 0, x * 1.5, x * r), [1e-310, 0.0, 2.0]),
    "flushed difference": (
        lambda x, a, r: jnp.where(a - 2.5e-308 == 0, x * 1.5, x * r),
        [2.6e-308, 0.0, 2.0],
    ),
    # In float64 the product of the first is not 0.09, but rounded once with the difference.
    "rounded once": (lambda x, a, r: jnp.where(a * a - 0.09 == 0, x * 1.5, x * r), [0.3, 1.0]),
    "of neither sign": (lambda x, a, r: x * r + jnp.copysign(1.0, a - a), [1.0, 2.0]),
    "negative zero": (lambda x, a, r: x * r + jnp.copysign(1.0, a), [0.0, -0.0, 1.0]),
    "of no entries": (
        lambda x, a, r: (
            x * r
            + lax.select(jnp.arange(0) < a, jnp.zeros(0), a + jnp.zeros(0)).sum()
            + (jnp.arange(0) < a).reshape(0, 1).sum()
        ),
        [1.0, 2.0],
    ),
    "out of range": (lambda x, a, r: lax.select_n(a, x * r, x + r, x - r), [-1, 1, 7, 0]),
    "three cases": (lambda x, a, r: lax.select_n(a % 3, x * r, x + r, x - r), [1, 2, 3, 4]),
    "all of one case": (lambda x, a, r: lax.select_n(a - a + 7, x * r, x + r, x - r), [5, 6, 7]),
    "entries": (lambda x, a, r: jnp.where(jnp.arange(3) < a, x * r, x), [1, 0, 3, 2]),
    "of entries": (
        lambda x, a, r: sum(
            jnp.where(d == 0, x, d * x + r) for d in jnp.where(jnp.arange(3) < a, 0.5, 0.0)
        ),
        [1, 0, 3, 2],
    ),
    "sum of bools": (lambda x, a, r: jnp.where((a > 1) | ~(a < 3), x * r, x), [1, 2, 3]),
    "narrow": (
        lambda x, a, r: jnp.where(
            jnp.where(a > 1, a.astype(jnp.bfloat16), 2) == jnp.bfloat16(2), x * r, x
        ),
        [1.0, 2.0, 5.0],
    ),
    "wrapped": (
        lambda x, a, r: jnp.where(a.astype(jnp.uint8) - jnp.uint8(3) > 9, x * r, x),
        [1, 4, 255],
    ),
    "turned": (
        lambda x, a, r: (
            x * jnp.where(lax.reshape(jnp.arange(6).reshape(2, 3), (3, 2), (1, 0))[0, 1] > a, r, 2)
        ),
        [2, 4, 1],
    ),
}


@pytest.mark.parametrize(("body", "values"), KNOWN.values(), ids=KNOWN)
def test_numbers_are_what_xla_makes_of_them(x64, small, body, values):
    axis = nj.zipped(a=values)
    assert_is_vmap(job_of(loop(body), axis=axis, rate=RATES))


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_signs_of_zero_are_told_apart(x64, small, zero):
    # The second must not be taken for the first, which was compiled before.
    job = job_of(inverse_of_sum, axis=nj.zipped(a=[zero, zero]), rate=RATES)
    (layout,) = job.layouts("cpu")
    assert len(layout.alike[0]) == 1
    inverse = evaluate((), layout, job.run, job.columns(0))["x"]
    np.testing.assert_array_equal(inverse, np.full((2, 3), math.copysign(math.inf, zero)))


def test_what_differs_is_not_alike(x64, small):
    assert not layout_of(inverse_of_sum, axis=nj.zipped(a=[0.0, -0.0]), rate=RATES).alike[0]
    assert not layout_of(inverse_of_sum, a=[1.0, 1.0 + 1e-15], rate=RATES).alike[0]


def test_nan_is_alike_and_its_layout_equals_itself(x64, small):
    run = loop(lambda x, a, r: x * r + (a - a))
    first, second = (
        layout_of(run, axis=nj.zipped(a=[math.inf, math.inf]), rate=RATES) for _ in range(2)
    )
    assert len(first.alike[0]) == 1
    assert (first, hash(first)) == (second, hash(second))


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
    lowered = evaluate.lower((), job.layouts("cpu")[0], job.run, job.columns(0))
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


# --- Choice ---

MANY = np.linspace(0.01, 0.1, 64)


def network(rate, seed):
    x = jax.random.normal(jax.random.key(seed), (32, 8))

    def loss(params):
        return jnp.mean((jnp.tanh(x @ params[0]) @ params[1] - x[:, :1] ** 2) ** 2)

    def step(params, _):
        return jax.tree.map(lambda p, g: p - rate * g, params, jax.grad(loss)(params)), None

    start = jnp.full((8, 16), 0.1), jnp.full((16, 1), 0.1)
    return {"loss": loss(lax.scan(step, start, length=200)[0])}


def repeated(body, entries=3, steps=200):
    """Return a run of many steps of `body`, a function of (x, rate)."""

    def run(rate):
        start = jnp.linspace(0.1, 0.2, entries)
        return {"x": lax.scan(lambda x, _: (body(x, rate), None), start, length=steps)[0]}

    return run


def shout(x):
    jax.debug.print("{}", x)
    return x


def in_two_sums(x, y):
    added = lambda p, q: (p[0] + q[0], p[1] + q[1])  # noqa: E731
    return lax.reduce((x, y), (0.0, 0.0), added, (0,))[0]


VMAPPED = {
    "a network": (network, {"rate": MANY, "seed": range(2)}),
    "few points": (repeated(lambda x, r: r * x), {"rate": MANY[:63]}),
    "few steps": (repeated(lambda x, r: r * x, steps=99), {"rate": MANY}),
    "no loop": (lambda rate: {"x": rate * jnp.arange(3.0)}, {"rate": MANY}),
    "large arrays": (repeated(lambda x, r: r * x, 65), {"rate": MANY}),
    "a branch": (
        repeated(lambda x, r: lax.cond(x[0] > r, lambda: x, lambda: x * r)),
        {"rate": MANY},
    ),
    "a loop without a count": (
        repeated(lambda x, r: lax.while_loop(lambda y: y[0] < r, lambda y: 2 * y, x)),
        {"rate": MANY},
    ),
    "effects": (repeated(lambda x, r: shout(r * x)), {"rate": MANY}),
    "others": (repeated(lambda x, r: jnp.sort(r * x)), {"rate": MANY}),
    "a function of its own": (repeated(lambda x, r: r * x + in_two_sums(x, r * x)), {"rate": MANY}),
    "alike in all runs": (
        lambda rate: {"x": repeated(lambda x, r: jnp.sin(x))(0.1)["x"] * rate},
        {"rate": MANY},
    ),
}
IN_LANES = {
    "a loop": (repeated(lambda x, r: r * x), {"rate": MANY}),
    "just enough steps": (repeated(lambda x, r: r * x, steps=100), {"rate": MANY}),
    "just small enough": (repeated(lambda x, r: r * x, 64), {"rate": MANY}),
    "a regression": (stream, {"rate": MANY, "seed": [0], "levels": [1, 2]}),
    "larger where pieces pay": (
        lambda rate, levels: repeated(lambda x, r: jnp.where(levels > 1, jnp.sin(x), r * x), 500)(
            rate
        ),
        {"rate": MANY, "levels": [1, 2]},
    ),
}


@pytest.mark.parametrize(("run", "axes"), VMAPPED.values(), ids=VMAPPED)
def test_vmapped_are(run, axes):
    assert layout_of(run, **axes) is None


@pytest.mark.parametrize(("run", "axes"), IN_LANES.values(), ids=IN_LANES)
def test_in_lanes_are(run, axes):
    assert layout_of(run, **axes) is not None
    assert job_of(run, **axes).layouts("NVIDIA A100-SXM4-40GB") == (None,)


# --- Optimizers ---


def noisy(rate, decay):
    links = optax.centralize(), optax.add_noise(0.01, 0.55, 0), optax.ema(decay)
    return optax.chain(*links, optax.sgd(rate))


OPTIMIZERS = {
    "nested momentum": lambda rate, decay: nj.nested_momentum(rate, levels=3, decay=decay),
    "debiased": lambda rate, decay: nj.nested_momentum(rate, levels=3, decay=decay, debias=True),
    "zero lag": lambda rate, decay: nj.nested_momentum(
        rate, levels=3, decay=decay, readout="zero_lag"
    ),
    "mean": lambda rate, decay: nj.nested_momentum(rate, levels=3, decay=decay, readout="mean"),
    "nesterov": lambda rate, decay: nj.nesterov(rate, decay=decay),
    "momentum": lambda rate, decay: nj.momentum(rate, decay=decay),
    "adam": lambda rate, decay: nj.adam(rate, b1=decay),
    "amsgrad": lambda rate, decay: nj.adam(rate, b1=decay, amsgrad=True),
    "adamw": lambda rate, decay: nj.adamw(
        rate,
        weight_decay=0.01,
        b1=decay,
        normalized=True,
        schedule=nj.with_warmup(nj.cosine(120), 10),
    ),
    "adafactor": lambda rate, decay: nj.adafactor(b1=decay, decay_rate=1 - rate),
    "adafactor, not factored": lambda rate, decay: nj.adafactor(
        rate, b1=decay, factored=False, relative_step=False
    ),
    "clipped": lambda rate, decay: optax.chain(
        nj.clip_by_block_rms(decay),
        optax.clip_by_global_norm(decay),
        optax.clip(0.1),
        optax.sgd(rate),
    ),
    "metrics": lambda rate, decay: nj.with_metrics(nj.momentum(rate, decay=decay)),
    "optax.adamw": lambda rate, decay: optax.adamw(rate, decay),
    "optax.lion": lambda rate, decay: optax.lion(rate, decay),
    "optax.sgd": lambda rate, decay: optax.sgd(rate, decay),
    "optax.chain": noisy,
    "injected": lambda rate, decay: optax.inject_hyperparams(optax.adam)(rate, b1=decay),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_optimizers_are_in_lanes(x64, optimizer):
    def run(rate, decay):
        tx = optimizer(rate, decay)
        params = {"weight": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3), "bias": jnp.ones(2)}

        def loss(params, target):
            out = params["weight"] @ jnp.array([1.0, -0.5, 2.0]) + params["bias"]
            return jnp.sum((out - target) ** 2)

        def step(carry, target):
            value, gradient = jax.value_and_grad(loss)(carry[0], target)
            update, state = tx.update(gradient, carry[1], carry[0])
            return (optax.apply_updates(carry[0], update), state), value

        targets = jnp.sin(jnp.arange(120.0))  # Losses do not become as small as rounding.
        (params, _), losses = lax.scan(step, (params, tx.init(params)), targets)
        return {"loss": losses[::30], **params}

    assert_is_vmap(job_of(run, rate=MANY[:32], decay=[0.9, 0.5]), RUN_RTOL)


def test_rollouts_are_in_lanes(x64, monkeypatch):
    def run(rate, levels, seed):
        tx = nj.with_metrics(nj.nested_momentum(rate, levels=levels, max_levels=3))
        trace = nj.rollout(
            tx,
            nj.quadratic([1.0, 0.5, 0.1], noise_std=0.1),
            jax.random.key(seed),
            120,
            warmup=20,
            bound=1.0,
            stride=40,
            record=lambda params, state: {"norm": nj.metrics_of(state).gradient_norm, "x": params},
        )
        names = "mean_loss", "loss_curve", "diverged_at", "diverged"
        return {name: getattr(trace, name) for name in names} | trace.records

    monkeypatch.setattr(_layout, "FOREIGN_SHARE", 1.0)  # Few runs share their draws.
    assert_is_vmap(job_of(run, rate=MANY[:16], levels=[2, 1, 3], seed=[3, 1]), RUN_RTOL)


def test_the_layout_can_be_chosen(monkeypatch):
    """Lanes even where they would not pay, vmap even where they would; within rounding."""
    taken = []
    evaluate = _tracing.evaluate_in_lanes
    monkeypatch.setattr(
        _tracing, "evaluate_in_lanes", lambda *args: taken.append(1) or evaluate(*args)
    )

    def swept(length, layout):
        def run(rate, power):
            def step(x, _):
                return x - rate * x**power, None

            return {"x": jax.lax.scan(step, 1.0, length=length)[0]}

        grid = nj.Grid(rate=np.linspace(0.1, 0.5, 16), power=np.linspace(1, 2, 8))
        taken.clear()
        results = nj.sweep(run, grid, layout=layout, progress=False)
        return results.x, bool(taken)

    for length, pays in ((3, False), (300, True)):
        vmapped, in_lanes = swept(length, "vmap")
        assert not in_lanes
        for layout, expected in (("auto", pays), ("lanes", True)):
            values, in_lanes = swept(length, layout)
            assert in_lanes == expected
            np.testing.assert_allclose(values, vmapped, rtol=1e-5, atol=1e-30)  # float32's powers.
    with pytest.raises(ValueError, match="`layout` must be one of 'auto', 'lanes', 'vmap', got"):
        swept(3, "columns")
