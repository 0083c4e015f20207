"""What the tests of faults share: a sweep that real processes run, and what they leave."""

import hashlib
import multiprocessing
import os
import subprocess
import sys

import numpy as np

DEADLINE = 180.0  # Seconds, for any one process on a busy machine.
KILLS = int(os.environ.get("NESTED_JAX_KILLS", 20))

# The sweep, and what a process does with it; `word` is a static axis.
SWEEP = """
import os, pathlib, sys, time
import jax, jax.numpy as jnp, numpy as np
import nested_jax as nj

def run(word, rate, seed):
    def step(x, _):
        x = x - rate * jnp.sin(x) / len(word)
        return x, x.sum()

    x = jax.random.normal(jax.random.key(seed), (7,))
    x, sums = jax.lax.scan(step, x, length=LENGTH)
    return {"loss": sums[-1], "curve": sums[::20], "x": x.astype(jnp.bfloat16), "n": seed * 2,
            "none": jnp.zeros((0, 2))}

LENGTH = 100
GRID = nj.Grid(word=["a", "bc"], rate=np.linspace(0.01, 0.9, 15), seed=range(6))

def keep(results, path):
    np.savez(path, **{name: results[name].values for name in results})
"""
CHUNKS = 60

LOCAL = """
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
# A process that follows a killed one does not compile again, which is most of its time.
jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(__file__).parent / "cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
fsync = os.fsync

def slow(file):
    # Most of the time goes into writing, so that most signals come then.
    time.sleep(0.02)
    fsync(file)

if sys.argv[4:] == ["slowly"]:
    os.fsync = slow
keep(nj.sweep(run, GRID, chunk=3, store=sys.argv[2]), sys.argv[3])
"""


def script(folder, code):
    path = folder / "script.py"
    path.write_text(SWEEP + code)
    return path


def start(path, *arguments):
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", str(path), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def fork(path, *arguments):
    """Start a process that finds the library imported, most of the time of a short one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["jax.experimental.multihost_utils", "nested_jax"])
    words = [str(path), *map(str, arguments)]
    code = f"import runpy, sys; sys.argv = {words}; runpy.run_path(sys.argv[0])"
    process = context.Process(target=exec, args=(code,))
    process.start()
    return process


def finish(process):
    """Wait for a process to succeed; return what it said."""
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, err
    return out


def contents(path):
    with np.load(path) as file:
        return {name: (file[name].dtype, file[name].shape, file[name].tobytes()) for name in file}


def chunks(store):
    return {path.name: path.read_bytes() for path in store.glob("chunk-*")}


def assert_whole(found):
    for name, content in found.items():
        assert hashlib.sha256(content).hexdigest()[:32] in name
