"""Time the published level sweep against peers, side by side in one run.

    make bench

All peers get the same draws and must come to the same losses. Repeats take turns, so that a slow
moment of the machine meets everybody; ratios of minima are what to read. NumPy, which is slow,
runs a part of the steps, and its time is scaled up.
"""

import dataclasses
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.table
import tyro
from jax.tree_util import Partial

import nested_jax as nj
from experiments import _cli, levels
from nested_jax.problems import DriftingRegressionDraws, DriftingRegressionWorld

LEVELS, DIM, DECAY, RATE, NOISE_STD = 19, 10, 0.95, 0.01, 0.1
YARDSTICK = "SIMD C, all cores"
# Losses that differ by rounding and, where they diverge, by what 30,000 steps make of it.
RTOL = 1e-9


@dataclasses.dataclass(frozen=True)
class Config:
    """Time the level sweep against NumPy and C."""

    steps: int = 30_000
    """Steps of each of the 361 runs."""
    repeats: int = 5
    """Repeats, of which the minimum counts."""
    numpy_steps: int = 1_000
    """Steps that NumPy runs."""
    out: Path | None = None
    """JSON file to write the times to."""


def main(config: Config) -> None:
    """Run all peers in turn and print the table."""
    _cli.use_device("cpu")
    jax.config.update("jax_compilation_cache_dir", None)  # Compilation is timed too.
    draws = _draws(config.steps)
    with tempfile.TemporaryDirectory() as folder:
        compile_seconds, peers = _peers(config, draws, Path(folder))
        seconds: dict[str, list[float]] = {name: [] for name in peers}
        reference = None
        for _ in range(config.repeats):
            for name, peer in peers.items():
                taken, losses = peer()
                seconds[name].append(taken)
                if losses is not None:
                    reference = losses if reference is None else reference
                    np.testing.assert_allclose(losses, reference, rtol=RTOL, err_msg=name)
    _show(config, seconds, compile_seconds)
    if config.out:
        machine = {"machine": _machine(), "steps": config.steps, "jax": jax.__version__}
        record = machine | {"seconds": seconds, "compile_seconds": compile_seconds}
        config.out.write_text(json.dumps(record, indent=2) + "\n")


def _draws(steps: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {
        "inputs": (steps, DIM),
        "noise": (steps,),
        "drift": (steps, DIM),
        "world": (LEVELS, DIM),
        "model": (DIM + 1,),
    }
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def _peers(config, draws, folder):
    """Return the seconds that ours compiles, and name -> (() -> seconds and losses)."""
    peers: dict[str, Callable[[], tuple[float, np.ndarray | None]]] = {}
    compile_seconds = {}
    warmup = config.steps // 10
    published = levels.Config(steps=config.steps, warmup=warmup)
    programs = {
        "nested_jax, recorded draws": (_ours(config.steps, warmup, draws), True),
        "nested_jax, published streams": (levels.function(published), False),
        "nested_jax, JAX keys": (
            levels.function(dataclasses.replace(published, stream="jax")),
            False,
        ),
    }
    axes = {"model_level": range(1, LEVELS + 1), "data_level": range(1, LEVELS + 1)}
    for name, (run, same_draws) in programs.items():
        grid = nj.Grid(**axes) if same_draws else nj.Grid(**axes, seed=[0])
        compile_seconds[name] = nj.sweep(run, grid, progress=False).attrs["compile_seconds"]
        peers[name] = lambda run=run, grid=grid, same=same_draws: _time_sweep(run, grid, same)
    peers["NumPy, all runs at once"] = lambda: _time_numpy(config, draws)
    peers.update(_c_peers(config.steps, warmup, draws, folder))
    return compile_seconds, peers


def _ours(steps: int, warmup: int, draws: dict[str, np.ndarray]) -> Partial:
    def run(recorded, world, model, *, model_level, data_level):
        problem = nj.drifting_regression(DIM, data_level, DECAY, NOISE_STD, max_levels=LEVELS)
        tx = nj.nested_momentum(RATE, model_level, DECAY, max_levels=LEVELS)
        initial = (2 * model, DriftingRegressionWorld(weights=tuple(world)))
        trace = nj.rollout(tx, problem, None, steps, warmup=warmup, initial=initial, draws=recorded)
        return {"loss": trace.loss}

    arrays = {name: jnp.asarray(values) for name, values in draws.items()}
    world, model = arrays.pop("world"), arrays.pop("model")
    return Partial(run, DriftingRegressionDraws(**arrays), world, model)


def _time_sweep(run, grid, same_draws):
    results = nj.sweep(run, grid, progress=False)
    return results.attrs["run_seconds"], results.loss.values if same_draws else None


def _time_numpy(config, draws):
    steps = min(config.numpy_steps, config.steps)
    started = time.perf_counter()
    with np.errstate(over="ignore", invalid="ignore"):
        _sweep_numpy(steps, steps // 10, draws)
    # Fewer steps are another sweep, whose losses cannot be compared; the tests do that.
    return (time.perf_counter() - started) * config.steps / steps, None


def _sweep_numpy(steps: int, warmup: int, draws: dict[str, np.ndarray]) -> np.ndarray:
    """Return the losses [model level, data level], all runs batched: what one would write."""
    level = np.arange(1, LEVELS + 1)
    inner = np.arange(LEVELS)[:, None, None]
    keep_model = np.where(inner[:-1] < level[:, None] - 1, DECAY, 0.0)[:, :, :, None]
    keep_data = np.where(inner < level[:, None], DECAY, 0.0)
    world = np.repeat(draws["world"][:, None], LEVELS, axis=1)
    momenta = np.zeros((LEVELS - 1, LEVELS, LEVELS, DIM + 1))
    w = np.broadcast_to(2 * draws["model"], (LEVELS, LEVELS, DIM + 1)).copy()
    total = np.zeros((LEVELS, LEVELS))
    for t in range(steps):
        flow = np.broadcast_to(draws["drift"][t], (LEVELS, DIM))
        for i in reversed(range(LEVELS)):
            flow = world[i] = keep_data[i] * world[i] + (1 - keep_data[i]) * flow
        features = np.append(draws["inputs"][t], 1.0)
        error = w @ features - (world[0] @ draws["inputs"][t] + NOISE_STD * draws["noise"][t])
        flow = 2 * error[..., None] * features
        for i in reversed(range(LEVELS - 1)):
            flow = momenta[i] = keep_model[i] * momenta[i] + (1 - keep_model[i]) * flow
        w -= RATE * flow
        if t >= warmup:
            total += error**2
    return total / (steps - warmup)


def _c_peers(steps, warmup, draws, folder):
    compiler = shutil.which("cc")
    if compiler is None:
        rich.print("No C compiler: C is left out.")
        return {}
    program = folder / "level_sweep"
    source = Path(__file__).with_suffix(".c")
    flags = ["-O3", "-march=native", "-mprefer-vector-width=512", "-ffp-contract=fast"]
    command = [compiler, *flags, "-fopenmp", str(source), "-o", str(program), "-lm"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        # Only some compilers and processors know of 512-bit vectors.
        command.remove("-mprefer-vector-width=512")
        subprocess.run(command, check=True)
    order = ("inputs", "noise", "drift", "world", "model")
    np.concatenate([draws[name].ravel() for name in order]).tofile(folder / "inputs")

    def run(mode, threads):
        words = [program, mode, str(steps), str(warmup), folder / "inputs", folder / "outputs"]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
        return float(done.stdout), np.fromfile(folder / "outputs").reshape(LEVELS, LEVELS)

    cores = os.cpu_count() or 1
    return {
        "plain C, 1 thread": lambda: run("plain", 1),
        "plain C, all cores": lambda: run("plain", cores),
        "SIMD C, 1 thread": lambda: run("simd", 1),
        YARDSTICK: lambda: run("simd", cores),
    }


def _show(config: Config, seconds: dict[str, list[float]], compile_seconds) -> None:
    runs = LEVELS * LEVELS
    title = f"{runs} runs × {config.steps} steps, float64, data stream included; {_machine()}"
    table = rich.table.Table(title=title)
    table.add_column("what")
    for name in ("seconds (min)", "median", "ratio to SIMD C", "compile s"):
        table.add_column(name, justify="right")
    yardstick = min(seconds.get(YARDSTICK, [float("nan")]))
    for name, taken in sorted(seconds.items(), key=lambda item: min(item[1])):
        compiled = compile_seconds.get(name)
        table.add_row(
            name,
            f"{min(taken):.3f}",
            f"{np.median(taken):.3f}",
            f"{min(taken) / yardstick:.1f}",
            "" if compiled is None else f"{compiled:.1f}",
        )
    rich.console.Console(width=110).print(table)


def _machine() -> str:
    """Return the processor's name and number of cores."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # Not Linux: the architecture has to do.
    return f"{name}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main(tyro.cli(Config))
