"""Tests of the kernels, interpreted: against the oracle, against the scan, and how they lower."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.mesh import AbstractDevice

import nested_jax as nj
from experiments.levels import kernels
from experiments.levels.kernels import blocks, rollout
from nested_jax._core.jaxpr import all_eqns
from nested_jax.problems import DriftingRegressionDraws, DriftingRegressionWorld
from tests import oracles

FLOAT64_RTOL = 1e-12  # 350 steps that contract, a dozen roundings each.
SCAN_RTOL = 1e-10  # What the kernels promise where runs are stable; rounding is all there is.
GROWTH_RTOL = 1e-12  # Of log losses: what 300 roundings leave of a loss, growing as the loss does.
FLOAT32_RTOL = 500 * np.finfo(np.float32).eps  # Thousands of roundings, and a sum of 750 losses.
KEY = jax.random.key(0)
BLOCK = 100
# What LLVM makes of interpreted kernels nobody runs; making it is most of the time of a test.
QUICKLY = {"xla_backend_optimization_level": 0}


@pytest.fixture(autouse=True)
def _short_blocks(monkeypatch):
    """Make a few hundred steps several blocks, none of them a multiple of the steps at once."""
    monkeypatch.setattr(rollout, "STEPS_OF_A_BLOCK", BLOCK)


def both(run):
    """Return what `run(implementation)` gives for the scan and for the interpreted kernels."""
    return [quickly(jax.jit(functools.partial(run, word))) for word in ("scan", "interpret")]


def quickly(program, *arguments):
    """Return what a program gives, compiled quickly."""
    lowered = program.lower(*arguments)
    return lowered.compile(QUICKLY)(*arguments)


def assert_same(actual, expected, rtol):
    np.testing.assert_allclose(actual.mean_loss, expected.mean_loss, rtol=rtol)
    np.testing.assert_array_equal(actual.diverged_at, expected.diverged_at)
    scale = np.abs(expected.params).max()
    np.testing.assert_allclose(actual.params, expected.params, rtol=rtol, atol=rtol * scale)


@pytest.mark.parametrize(
    ("model_levels", "data_levels", "dim", "steps"), [(1, 1, 1, 350), (4, 2, 5, 350), (7, 3, 4, 99)]
)
def test_replays_the_oracle(x64, model_levels, data_levels, dim, steps):
    rng = np.random.default_rng(model_levels)
    shapes = [(dim + 1,), (data_levels, dim), (steps, dim), (steps, dim), (steps,)]
    model, data, *chance = (rng.normal(size=shape) for shape in shapes)
    decays = [0.8 - 0.05 * i for i in range(model_levels - 1)]
    losses, mean = oracles.drifting_regression(
        model,
        data,
        *chance,
        decays=decays,
        learning_rate=0.02,
        data_decay=0.9,
        noise_std=0.3,
        warmup=33,
    )
    tree = DriftingRegressionDraws(*map(jnp.asarray, chance))
    bound = np.sort(losses)[-4]  # Three steps are beyond it.
    trace = kernels.regression_rollout(
        decays,
        0.02,
        None,
        steps,
        dim=dim,
        data_levels=data_levels,
        data_decay=0.9,
        noise_std=0.3,
        warmup=33,
        bound=bound,
        initial=(2 * model, DriftingRegressionWorld(tuple(data))),
        draws=lambda t: jax.tree.map(lambda z: z[t], tree),
        implementation="interpret",
    )
    assert trace.mean_loss.dtype == trace.params.dtype == np.float64
    np.testing.assert_allclose(trace.mean_loss, mean, rtol=FLOAT64_RTOL)
    assert trace.diverged_at == np.flatnonzero(losses > bound * (1 + 1e-9))[0]


@pytest.mark.slow
def test_agrees_with_the_scan_at_all_levels(x64):
    """Stages without a decay, which the kernels leave out, may be anywhere."""
    decays = [nj.nested_decays(levels, decay=0.9, max_levels=8) for levels in range(1, 9)]
    decays += [[0.9, 0.0, 0.5, 0.0, 0.8, 0.0, 0.0], [0.0] * 6 + [0.9]]

    def run(implementation, decays, data_levels):
        return kernels.regression_rollout(
            decays,
            0.003,
            KEY,
            7 * BLOCK + 30,
            dim=4,
            data_levels=data_levels,
            max_data_levels=3,
            warmup=200,
            bound=200.0,
            implementation=implementation,
        )

    # Runs go in pairs along the innermost axis, the last one with a run of another loop.
    over_decays = jax.vmap(run, (None, 0, None))
    over_all = jax.vmap(over_decays, (None, None, 0))
    expected, actual = both(lambda word: over_all(word, np.array(decays), np.arange(1, 4)))
    assert actual.mean_loss.shape == (3, 10)
    assert 0 < np.mean(actual.diverged_at >= 0) < 1
    assert_same(actual, expected, SCAN_RTOL)
    # A pair shares a loop; a run alone has its own. Runs do not know of each other.
    alone = quickly(jax.jit(functools.partial(run, "interpret")), decays[3], 2)
    np.testing.assert_allclose(actual.mean_loss[1, 3], alone.mean_loss, rtol=SCAN_RTOL)


@pytest.mark.slow
def test_diverges_as_the_scan_does(x64):
    def run(implementation, decay, learning_rate):
        return kernels.regression_rollout(
            [decay] * 7,
            learning_rate,
            KEY,
            3 * BLOCK,
            dim=4,
            bound=1e6,
            implementation=implementation,
        )

    decays, rates = np.array([0.95, 0.95, 0.5, 0.5]), np.array([8.0, 50.0, 4.0, 50.0])
    expected, actual = both(lambda word: jax.vmap(functools.partial(run, word))(decays, rates))
    assert (expected.mean_loss > 1e10).all()
    np.testing.assert_allclose(
        np.log(actual.mean_loss), np.log(expected.mean_loss), rtol=GROWTH_RTOL
    )
    np.testing.assert_array_equal(actual.diverged_at, expected.diverged_at)


def test_an_overflow_is_beyond_an_infinite_bound():
    def run(implementation):
        return kernels.regression_rollout(
            [0.5], 30.0, KEY, 2 * BLOCK, dim=3, implementation=implementation
        )

    expected, actual = both(run)
    assert not np.isfinite(actual.mean_loss)
    assert actual.diverged_at == expected.diverged_at > 0


def test_nan_is_beyond_any_bound():
    params, world = nj.drifting_regression(2).init(KEY)
    initial = params.at[1].set(np.nan), world
    trace = kernels.regression_rollout(
        [0.5], 0.01, KEY, 8, dim=2, initial=initial, implementation="interpret"
    )
    assert trace.diverged_at == 0
    assert np.isnan(trace.mean_loss)


@pytest.mark.slow
def test_every_number_may_be_traced():
    def run(implementation, decays, learning_rate, data_levels, noise_std, warmup, bound):
        return kernels.regression_rollout(
            decays,
            learning_rate,
            KEY,
            2 * BLOCK,
            dim=3,
            data_levels=data_levels,
            data_decay=noise_std,
            noise_std=noise_std,
            max_data_levels=2,
            warmup=warmup,
            bound=bound,
            implementation=implementation,
        )

    values = [np.array([0.9, 0.5]), 0.01, 2, 0.2, 50, 5.0]
    expected = run("scan", *values)
    actual = quickly(jax.jit(functools.partial(run, "interpret")), *values)
    assert actual.mean_loss.dtype == actual.params.dtype == np.float32
    assert actual.diverged_at.dtype == np.int32
    assert_same(actual, expected, FLOAT32_RTOL)
    # Each along an axis of its own, or all along one.
    pairs = [np.stack([value, value]) for value in values]
    together = quickly(jax.jit(jax.vmap(functools.partial(run, "interpret"))), *pairs)
    np.testing.assert_allclose(together.mean_loss, [expected.mean_loss] * 2, rtol=FLOAT32_RTOL)


@pytest.mark.slow
def test_sweeps_like_the_scan():
    def run(implementation, levels, data_levels, learning_rate, seed):
        trace = kernels.regression_rollout(
            nj.nested_decays(levels, decay=0.8, max_levels=3),
            learning_rate,
            jax.random.key(seed),
            2 * BLOCK,
            dim=3,
            data_levels=data_levels,
            max_data_levels=2,
            implementation=implementation,
        )
        return {"loss": trace.mean_loss, "diverged_at": trace.diverged_at}

    grid = nj.Grid(levels=[1, 2, 3], data_levels=[1, 2], learning_rate=[0.01, 0.02], seed=range(3))
    expected, actual = (
        nj.sweep(functools.partial(run, word), grid, progress=False)
        for word in ("scan", "interpret")
    )
    assert actual.loss.shape == (3, 2, 2, 3)
    np.testing.assert_allclose(actual.loss, expected.loss, rtol=FLOAT32_RTOL)
    assert (actual.diverged_at == -1).all()


def traced_over_levels(steps):
    """Return the jaxpr of runs along axes of 6 model levels, 5 data levels and 4 seeds."""

    def run(levels, data_levels, seed):
        return kernels.regression_rollout(
            nj.nested_decays(levels, decay=0.9, max_levels=6),
            0.01,
            jax.random.key(seed),
            steps,
            data_levels=data_levels,
            max_data_levels=5,
            implementation="pallas",
        )

    over_seeds = jax.vmap(run, (None, None, 0))
    over_data = jax.vmap(over_seeds, (None, 0, None))
    over_all = jax.vmap(over_data, (0, None, None))
    return jax.jit(over_all).trace(jnp.arange(1, 7), jnp.arange(1, 6), jnp.arange(4))


def test_what_runs_share_is_there_once():
    eqns = [*all_eqns(traced_over_levels(1000).jaxpr)]
    calls = [eqn for eqn in eqns if eqn.primitive.name == "pallas_call"]
    shapes = [[var.aval.shape for var in eqn.invars] for eqn in calls]
    # Seeds go in pairs. The drift of 5 data levels knows no model level; inflows are the seed's.
    assert shapes == [
        [(5, 5), (5, 5), (5, 4, 5, 16), (4, BLOCK, 16)],
        [(6, 12), (6, 3), (6, 5, 2, 2, 6, 16), (2, 2, BLOCK, 16), (5, 2, 2, BLOCK)],
    ]


def test_memory_does_not_grow_with_steps():
    def largest(steps):
        eqns = all_eqns(traced_over_levels(steps).jaxpr)
        return max(var.aval.size for eqn in eqns for var in eqn.outvars)

    assert largest(10_000) == largest(1000)


def lowered_for_cuda(function, *arguments):
    """Lower for a GPU that is not there: from JAX 0.11 on the lowering asks which one it is."""
    gpu = AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=None, platform="gpu")
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=gpu)):
        traced = jax.jit(function).trace(*arguments)
        return traced.lower(lowering_platforms=("cuda",)).as_text()


# JAX's own words, from 0.11.2 on; `kernels.triton` says what follows.
@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("dim", "warps"), [(1, 1), (10, 1), (300, 4)])
def test_lowers_for_cuda_without_a_gpu(x64, dim, warps, dtype):
    def run(levels, seed):
        return kernels.regression_rollout(
            nj.nested_decays(levels, decay=0.9, max_levels=7),
            0.01,
            jax.random.key(seed),
            250,
            dim=dim,
            dtype=dtype,
            implementation="pallas",
        )

    over_all = jax.vmap(jax.vmap(run, (None, 0)), (0, None))
    text = lowered_for_cuda(over_all, jnp.arange(1, 8), jnp.arange(3))
    calls = [line for line in text.splitlines() if "xla.gpu.triton" in line]
    for name in ("drift_kernel", "descent_kernel"):
        # A whole block in the loop, and the rest after it.
        assert len([line for line in calls if f'name = "{name}"' in line]) == 2
    assert all(f"num_warps = {warps} : i32" in line for line in calls)
    # Stages are one fused instruction each, in the precision of the run.
    bits = 8 * np.dtype(dtype).itemsize
    assert all(f"fma.rn.f{bits}" in line for line in calls)


def test_the_scan_is_the_default_on_a_gpu_too(monkeypatch):
    """Kernels that no GPU has run are opt-in."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    run = functools.partial(kernels.regression_rollout, [0.5], 0.01, KEY, 20)
    assert "pallas_call" not in str(jax.make_jaxpr(run)())


def test_without_triton_an_error_names_the_scan(monkeypatch):
    """It is what happens once JAX has removed the backend."""
    monkeypatch.setitem(sys.modules, "jax.experimental.pallas.triton", None)
    monkeypatch.delattr("jax.experimental.pallas.triton", raising=False)
    run = functools.partial(kernels.regression_rollout, [0.5], 0.01, KEY, 20)
    with pytest.raises(ValueError, match='`implementation` must be "scan" where JAX has no Triton'):
        run(implementation="pallas")
    assert np.isfinite(run(implementation="interpret").mean_loss)
    assert np.isfinite(run(implementation="scan").mean_loss)


@pytest.mark.parametrize(("size", "lanes"), [(1, 1), (2, 2), (3, 4), (16, 16), (17, 32)])
def test_lanes_are_a_power_of_two(size, lanes):
    assert blocks.lanes(size) == lanes
    rows = blocks.padded(jnp.ones((2, size)))
    np.testing.assert_array_equal(rows.sum(1), [size] * 2)
    assert rows.shape == (2, lanes)
