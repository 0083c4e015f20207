"""A release: what is built is checked; its wheel, installed with its hard dependencies only, works.

What needs more names its extra.
"""

import importlib.util
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests import release

ROOT = Path(__file__).parents[1]
# Run by the interpreter of the new environment.
USE = """
import importlib.metadata
import importlib.util
import pydoc
import re
import sys

import jax
import jax.numpy as jnp
import optax

import nested_jax as nj

required = importlib.metadata.requires("nested-jax")
hard = {re.match("[a-z-]+", line)[0] for line in required if "extra ==" not in line}
assert hard == {"jax", "jaxlib", "jaxtyping", "numpy", "optax"}, hard

# JAX itself brings scipy, but the library must not load its slow parts.
absent = "chex flax h5netcdf matfree matplotlib optuna pandas patsy ray rich statsmodels tyro"
for name in [*absent.split(), "xarray"]:
    assert importlib.util.find_spec(name) is None, f"{name} is installed"
assert "scipy.stats" not in sys.modules

params = {"weight": jnp.ones((4, 3)), "bias": jnp.ones(3)}
schedule = nj.schedules.cosine(10)
chain = optax.chain(nj.scale_by_nested_momentum([0.9, 0.5]), nj.scale_by_learning_rate(0.1))
for tx in (chain, nj.adamw(1e-3, weight_decay=0.1, schedule=schedule), nj.adafactor(1e-2)):
    updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
    assert all(jnp.isfinite(u).all() for u in jax.tree.leaves(updates))

problem = nj.drifting_regression(data_levels=2)
result = nj.rollout(nj.nested_momentum(0.01, levels=2), problem, jax.random.key(0), 100)
assert jnp.isfinite(result.mean_loss)
assert abs(nj.theory.dc_gain(nj.scale_by_accumulated_momentum(0.9)) - 10) < 1e-3


def never(x):
    raise AssertionError("a sweep was traced before its packages were looked for")


def loss(p):
    return jnp.sum(p**2)


uses = {
    "nested_jax.sweep` needs xarray: pip install 'nested-jax[sweep]'":
        lambda: nj.sweep(never, nj.Grid(x=[1.0, 2.0])),
    "nested_jax.plots` needs matplotlib: pip install 'nested-jax[sweep]'":
        lambda: nj.plots.heatmap,
    "nested_jax.theory.curvature` needs matfree: pip install 'nested-jax[theory]'":
        lambda: nj.theory.curvature(loss, jnp.ones(100)),
    "nested_jax.testing` needs chex: pip install 'nested-jax[testing]'":
        lambda: nj.testing.check_contract,
    "nested_jax.sweeps.load` needs h5netcdf: pip install 'nested-jax[netcdf]'":
        lambda: nj.sweeps.load("results.nc"),
    "nested_jax.sweeps.RayWorkers` needs ray: pip install 'nested-jax[ray]'":
        lambda: nj.sweeps.RayWorkers(2),
    "nested_jax.sweeps.optuna.optimize` needs optuna: pip install 'nested-jax[optuna]'":
        lambda: nj.sweeps.optuna.optimize(None, never, {}, metric="loss", trials=1),
}
for message, use in uses.items():
    try:
        use()
    except ImportError as error:
        assert str(error) == f"`{message}.", error
    else:
        raise AssertionError(f"no ImportError: {message}")

pydoc.render_doc(nj)  # What help(nj) shows.
print("all is well")
"""


def call(*words: object) -> str:
    """Return the output of a command; fail with all that it printed."""
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)
    assert not done.returncode, f"{' '.join(map(str, words))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Return the interpreter of an environment that has the wheel and its hard dependencies."""
    folder = tmp_path_factory.mktemp("install")
    python = folder / "venv" / "bin" / "python"
    # Both read the package index; pip reads PIP_CONSTRAINT by itself.
    if importlib.util.find_spec("uv") and importlib.util.find_spec("twine"):
        uv = (sys.executable, "-m", "uv", "--quiet")
        pins = [f"--constraint={path}" for path in os.environ.get("PIP_CONSTRAINT", "").split()]
        sdist, wheel = release.build(folder)
        release.check(sdist, wheel)
        call(*uv, "venv", "--python", sys.executable, folder / "venv")
        call(*uv, "pip", "install", "--python", python, *pins, wheel)
    else:
        call(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, ROOT)
        venv.create(folder / "venv", with_pip=True)
        call(python, "-m", "pip", "install", *folder.glob("*.whl"))
    return python


@pytest.mark.slow
def test_the_core_works_alone_and_the_rest_names_its_extra(alone):
    assert "all is well" in call(alone, "-I", "-c", USE)
