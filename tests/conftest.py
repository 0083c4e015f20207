"""Settings shared by all tests."""

import os
from pathlib import Path

import jax
import pytest

# Programs compiled in an earlier run are found again: most of the suite's time is compilation.
CACHE = Path(os.environ.get("NESTED_JAX_CACHE", Path(__file__).parents[1] / ".cache" / "jax"))
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
# Two devices on any machine, so that sharded programs are really cut.
jax.config.update("jax_num_cpu_devices", 2)


@pytest.fixture
def x64():
    """Run a test with 64-bit numbers allowed."""
    with jax.enable_x64(True):
        yield
