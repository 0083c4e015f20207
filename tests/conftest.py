"""Settings shared by all tests."""

import contextlib
import ctypes
import os
from pathlib import Path

import jax
import pytest

# Most programs here run once on few numbers, and compiling them is most of the suite's time: leave
# out what shortens only the run. As variables, so that processes which tests start inherit them.
# Variables that are set already stay: `make versions` tests what users compile.
if "NESTED_JAX_GPU" not in os.environ:
    if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"
        jax.config.update("jax_disable_most_optimizations", True)
    if jax.__version_info__ < (0, 11):  # JAX 0.11 aborts at the flag: it has no other emitters.
        os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
# Programs that were compiled before, in another module, on another worker or in an earlier run, are
# found again: most of the suite's time is compilation, much of it of single operations.
CACHE = {
    "jax_compilation_cache_dir": os.environ.get(
        "NESTED_JAX_CACHE", str(Path(__file__).parents[1] / ".cache" / "jax")
    ),
    "jax_persistent_cache_min_compile_time_secs": 0.0,
}
for _name, _value in CACHE.items():
    jax.config.update(_name, _value)
# Two devices on any machine, so that sharded programs are really cut.
jax.config.update("jax_num_cpu_devices", 2)

# Longest first, so that no worker is left with one of them in the end.
LONGEST = (
    "experiments/test_adam_vs_sgd.py",
    "experiments/test_heatmaps_command.py",
    "experiments/test_heatmaps.py",
    "experiments/test_stability.py",
    "experiments/test_adam.py",
    "experiments/test_momentum.py",
    "theory/test_mean_square.py",
    "testing/test_contract.py",
    "theory/test_stability.py",
    "schedules/test_schedules.py",
    "experiments/test_adafactor.py",
    "tests/test_readme.py",
)


def pytest_configure(config):
    """Let a program that another worker is just writing to the cache be compiled once more."""
    # JAX does so by itself where it reads a part of one, and warns.
    message = "ignore:Error reading persistent compilation cache:UserWarning"
    config.addinivalue_line("filterwarnings", message)


def pytest_collection_modifyitems(config, items):
    """Put the longest modules first on workers; leave out what `python -m benchmarks.gpu` runs."""
    if "NESTED_JAX_GPU" not in os.environ:
        of_gpus = [item for item in items if item.get_closest_marker("gpu")]
        config.hook.pytest_deselected(items=of_gpus)
        items[:] = [item for item in items if item not in of_gpus]
    if not hasattr(config, "workerinput"):
        return
    rank = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get("/".join(item.path.parts[-2:]), len(rank)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep a module's tests on one worker: what they share is then made once."""
    from xdist.scheduler import LoadFileScheduling

    if config.getoption("dist") != "load":  # What `-n` alone stands for.
        return None
    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """Free the memory of what was compiled, some gigabytes in the end."""
    # Experiments and benchmarks that ran in this process have a cache of their own.
    for name, value in CACHE.items():
        jax.config.update(name, value)
    yield
    jax.clear_caches()
    # Compilers work in threads, and the C library keeps what each has freed for that thread.
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture
def undrawn(monkeypatch):
    """Return what makes reports leave out the drawing of figures, most of their time."""

    def leave_out():
        from experiments.lab import _report
        from nested_jax import plots

        monkeypatch.setattr(_report, "_lay_out", lambda figure: None)
        monkeypatch.setattr(plots, "save", lambda figure, path, dpi: None)
        monkeypatch.setattr(plots, "to_svg", lambda figure: "<svg></svg>")

    return leave_out


@pytest.fixture
def optimized():
    """Compile as users do: for tests of roundings that depend on it, and for long runs."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def x64():
    """Run a test with 64-bit numbers allowed."""
    with jax.enable_x64(True):
        yield
