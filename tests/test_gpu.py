"""What has to hold on a GPU: run by `python -m benchmarks.gpu`, on a CPU too with `--platform cpu`.

The environment variable NESTED_JAX_GPU names the platform; without it none of these is run.
"""

import functools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from experiments.levels import kernels, runs
from experiments.levels.config import Config
from nested_jax.testing import check_contract
from tests.testing.test_contract import CASES

pytestmark = pytest.mark.gpu

PLATFORM = os.environ.get("NESTED_JAX_GPU", "cpu")
# One recurrence on two devices: the same roundings in another order, and normals whose last digits
# differ. The loss of a stable run forgets both.
RTOL = {"float32": 1e-4, "float64": 1e-10}
PUBLISHED_RTOL = 1e-9  # What is promised of the published losses, diverged ones included.
KERNEL_RTOL = 1e-10  # What is promised of the kernels where runs are stable.
GROWTH_RTOL = 1e-9  # Of log losses of runs that diverge, whose errors grow as the losses do.
BARE = ("scale_by", "add_", "clip_")
OPTIMIZERS = [case for case in CASES if not case.name.startswith(BARE)]
if PLATFORM != "gpu":  # `test_contract` has them all on a CPU: a few, to test this module.
    OPTIMIZERS = [case for case in OPTIMIZERS if case.name in ("nested_momentum", "adafactor")]
REFERENCE = Path(runs.__file__).with_name("published_losses.csv")
KERNELS = "pallas" if PLATFORM == "gpu" else "interpret"
KERNEL_STEPS = 3000 if PLATFORM == "gpu" else 150


def test_runs_where_it_should():
    assert jax.default_backend() == PLATFORM


@pytest.mark.parametrize("case", OPTIMIZERS, ids=lambda case: case.name)
def test_contract(case):
    check_contract(case)


def on_cpu():
    return jax.default_device(jax.devices("cpu")[0])


def optimizers():
    """Return an optimizer of each kind, tuned for the drifting regression below."""
    return {
        "nested_momentum": nj.nested_momentum(0.01, levels=3),
        "nesterov": nj.nesterov(0.005),
        "adam": nj.adam(0.02),
        "adamw": nj.adamw(0.02, weight_decay=0.001),
        "adafactor": nj.adafactor(0.02),
        "optax.sgd": optax.sgd(0.01),
    }


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", optimizers())
def test_a_rollout_is_that_of_the_cpu(name, dtype):
    with jax.enable_x64(dtype == "float64"):
        problem = nj.drifting_regression(5, data_levels=2)

        def run(key):
            trace = nj.rollout(optimizers()[name], problem, key, 2000, warmup=500, stride=500)
            return trace.mean_loss, trace.loss_curve, trace.diverged_at

        with on_cpu():
            expected = jax.jit(run)(jax.random.key(0))
        actual = jax.jit(run)(jax.random.key(0))
        assert actual[0].dtype == dtype
    for x, y in zip(actual, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=RTOL[dtype])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_sweep_is_that_of_the_cpu(dtype):
    def run(learning_rate, levels, seed):
        tx = nj.nested_momentum(learning_rate, levels=levels, max_levels=4)
        problem = nj.drifting_regression(dim=5)
        trace = nj.rollout(tx, problem, jax.random.key(seed), 1000, warmup=200)
        return {"loss": trace.mean_loss, "diverged_at": trace.diverged_at}

    grid = nj.Grid(learning_rate=[0.003, 0.01], levels=range(1, 5), seed=range(9))
    with jax.enable_x64(dtype == "float64"):
        actual = nj.sweep(run, grid, progress=False)
        expected = nj.sweep(run, grid, devices=jax.devices("cpu")[:1], progress=False)
    np.testing.assert_allclose(actual.loss, expected.loss, rtol=RTOL[dtype])
    np.testing.assert_array_equal(actual.diverged_at, expected.diverged_at)


def published(implementation, **changes):
    """Return the published level sweep on the published streams."""
    config = Config(implementation=implementation, **changes)
    grid = nj.Grid(
        model_level=range(1, config.model_levels + 1),
        data_level=range(1, config.data_levels + 1),
        seed=[0],
    )
    with jax.enable_x64(True):
        return nj.sweep(runs.function(config), grid, progress=False).isel(seed=0)


@pytest.mark.parametrize("implementation", ["scan"] + ["pallas"] * (PLATFORM == "gpu"))
def test_the_published_losses(implementation):
    model, data, losses = np.loadtxt(REFERENCE, delimiter=",", skiprows=1, unpack=True)
    results = published(implementation)
    for level, drift, loss in zip(model.astype(int), data.astype(int), losses, strict=True):
        found = results.loss.sel(model_level=level, data_level=drift)
        np.testing.assert_allclose(found, loss, rtol=PUBLISHED_RTOL, err_msg=f"{level}, {drift}")
    assert losses.size == results.loss.size == 361


def test_kernels_are_the_scan(monkeypatch):
    sizes = {"model_levels": 8, "data_levels": 3, "steps": KERNEL_STEPS, "warmup": 50}
    if KERNELS == "interpret":
        sizes |= {"model_levels": 3, "data_levels": 2}
    scan, kernel = (published(word, **sizes) for word in ("scan", KERNELS))
    stable = scan.loss.where(scan.model_level <= 5, drop=True)
    np.testing.assert_allclose(
        kernel.loss.sel(model_level=stable.model_level), stable, rtol=KERNEL_RTOL
    )
    np.testing.assert_allclose(np.log(kernel.loss), np.log(scan.loss), rtol=GROWTH_RTOL)
    np.testing.assert_array_equal(kernel.first_beyond, scan.first_beyond)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_kernels_take_every_shape(dtype):
    with jax.enable_x64(dtype == "float64"):
        for dim, levels in [(1, 1), (16, 7)] + [(300, 2)] * (PLATFORM == "gpu"):
            run = functools.partial(
                kernels.regression_rollout,
                [0.5] * (levels - 1),
                0.001,
                jax.random.key(0),
                KERNEL_STEPS,
                dim=dim,
                dtype=jnp.dtype(dtype),
            )
            expected, actual = (
                jax.jit(functools.partial(run, implementation=word))().mean_loss
                for word in ("scan", KERNELS)
            )
            rtol = RTOL[dtype]
            np.testing.assert_allclose(actual, expected, rtol=rtol, err_msg=f"{dim}, {levels}")
