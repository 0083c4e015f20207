"""The level sweep in C: plain loops, and one run a lane (`level_sweep.c`)."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np

from benchmarks._task import LEVELS, ORDER, Peer, Task

SOURCE = Path(__file__).with_name("level_sweep.c")
YARDSTICK = "SIMD C, all cores"
PLAIN = "plain C, all cores"


def peers(task: Task, folder: Path) -> dict[str, Peer]:
    """Return the peers, compiled into `folder`; none where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return {}
    program = _compile(compiler, task.dtype, folder)
    np.concatenate([task.draws[name].ravel() for name in ORDER]).tofile(folder / "inputs")
    sizes = [str(task.steps), str(task.warmup), folder / "inputs", folder / "outputs"]

    def peer(mode: str, threads: int) -> Peer:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}

        def timed():
            done = subprocess.run(
                [program, mode, *sizes], env=environment, capture_output=True, text=True, check=True
            )
            losses = np.fromfile(folder / "outputs", task.dtype)
            return float(done.stdout), losses.reshape(LEVELS, LEVELS)

        return timed

    cores = os.cpu_count() or 1
    return {
        "plain C, 1 thread": peer("plain", 1),
        PLAIN: peer("plain", cores),
        "SIMD C, 1 thread": peer("simd", 1),
        YARDSTICK: peer("simd", cores),
    }


def _compile(compiler: str, dtype: np.dtype, folder: Path) -> Path:
    program = folder / "level_sweep"
    real = {"float64": "double", "float32": "float"}[str(dtype)]
    flags = ["-O3", "-march=native", "-mprefer-vector-width=512", "-ffp-contract=fast"]
    command = [compiler, *flags, f"-DREAL={real}", "-fopenmp", SOURCE, "-o", program, "-lm"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        # Only some compilers and processors know of 512-bit vectors.
        command.remove("-mprefer-vector-width=512")
        subprocess.run(command, check=True)
    return program
