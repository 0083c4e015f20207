"""JAX's peers of the level sweep, in a process of their own.

XLA reads `XLA_FLAGS` once, when it starts, and the number of devices is settled then, too: each
setting that is compared takes a process, which stays, so that peers can take turns.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks._task import Peer, task
from experiments._xla_flags import OPTIONS, SINGLE_LOOP, with_single_loop

SUFFIX = ", single loop"
ABOUT_SINGLE_LOOP = f"Single loop: with XLA_FLAGS={OPTIONS}{SINGLE_LOOP}, your own choice."


@contextlib.contextmanager
def peers(
    steps: int, dtype: str, *, single_loop: bool = False
) -> Iterator[tuple[dict[str, Peer], dict[str, float]]]:
    """Start a process; yield its peers, and the seconds that each took to compile."""
    environment = dict(os.environ)
    if single_loop:
        environment["XLA_FLAGS"] = with_single_loop(environment.get("XLA_FLAGS", ""))
    command = [sys.executable, "-m", "benchmarks._jax_worker", str(steps), dtype]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    suffix = SUFFIX if single_loop else ""
    with subprocess.Popen(command, env=environment, **pipes) as process:
        try:
            compile_seconds = _answer(process)
            yield (
                {name + suffix: _peer(process, name, dtype) for name in compile_seconds},
                {name + suffix: seconds for name, seconds in compile_seconds.items()},
            )
        finally:
            assert process.stdin is not None
            process.stdin.close()


def _peer(process: subprocess.Popen, name: str, dtype: str) -> Peer:
    def timed():
        assert process.stdin is not None
        print(name, file=process.stdin, flush=True)
        seconds, losses = _answer(process)
        return seconds, None if losses is None else np.asarray(losses, dtype)

    return timed


def _answer(process: subprocess.Popen) -> Any:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"JAX's process ended with exit code {process.wait()}.")
    return json.loads(line)


def main(steps: int, dtype: str) -> None:
    """Run the peers that the lines of standard input name: the life of the process."""
    import jax

    from experiments import _cli

    _cli.use_device("cpu", x64=dtype == "float64")
    jax.config.update("jax_compilation_cache_dir", None)  # Compilation is timed, too.
    from benchmarks import _peers_jax

    timed, compile_seconds = _peers_jax.peers(task(steps, dtype))
    print(json.dumps(compile_seconds), flush=True)
    for line in sys.stdin:
        seconds, losses = timed[line.strip()]()
        print(json.dumps([seconds, None if losses is None else losses.tolist()]), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
