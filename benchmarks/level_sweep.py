"""Time the published level sweep against peers, side by side in one run.

    python -m benchmarks.level_sweep
    python -m benchmarks.level_sweep --dtype float32

Peers are C (plain loops, and one run a lane), numba, NumPy, PyTorch, JAX fused by hand, and
nested_jax as a user calls it, with XLA's flags as you have set them. All get the same draws and
must come to the same losses, but for those of nested_jax that draw their own numbers. Repeats take
turns, so that a slow moment of the machine meets everybody; ratios of minima are what to read.
NumPy and PyTorch, which are slow, run a part of the steps, and their times are scaled up. What is
not installed is left out with a line.

About a minute on 2 CPU cores, half a minute in float32.
"""

import dataclasses
import tempfile
from pathlib import Path
from typing import Literal

import jax
import rich
import tyro

from benchmarks import _peers_c, _peers_jax, _peers_numba, _peers_numpy, _peers_torch, _report
from benchmarks._task import LEVELS, Peer, Task, compare, task
from experiments import lab

RECORDED, BY_HAND = _peers_jax.RECORDED, _peers_jax.BY_HAND
OURS = (RECORDED, _peers_jax.KEYS, _peers_jax.PUBLISHED)
GOALS = {
    "float64": {
        f"{RECORDED} / {_peers_c.YARDSTICK}": 2.6,
        f"{RECORDED} / {_peers_c.PLAIN}": 1.0,
        f"{RECORDED} / {_peers_numba.PARALLEL}": 1.0,
        f"{RECORDED} / {BY_HAND}": 1.15,
    },
    "float32": {
        f"{RECORDED} / {_peers_c.YARDSTICK}": 8.5,
        f"{RECORDED} / {BY_HAND}": 1.15,
    },
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Time the level sweep against C, numba, NumPy, PyTorch and JAX fused by hand."""

    dtype: Literal["float64", "float32"] = "float64"
    """Type of all numbers. In float32 only C and JAX run."""
    steps: int = 30_000
    """Steps of each of the 361 runs."""
    repeats: int = 5
    """Repeats, of which the minimum counts."""
    part_steps: int = 1_000
    """Steps that NumPy and PyTorch run."""
    out: Path | None = None
    """JSON file to write the record to."""


def main(config: Config) -> None:
    """Run all peers in turn and print the table."""
    lab.use_device("cpu", x64=config.dtype == "float64")
    jax.config.update("jax_compilation_cache_dir", None)  # Compilation is timed, too.
    whole = task(config.steps, config.dtype)
    with tempfile.TemporaryDirectory() as folder:
        peers, compile_seconds = _peers(config, whole, Path(folder))
        seconds = in_turn(peers, config.repeats)
    _report.show_times(
        f"{LEVELS**2} runs × {config.steps:,} steps, {config.dtype}, data stream included; "
        f"{_report.machine()}",
        seconds,
        _peers_c.YARDSTICK,
        {"compile s": {name: f"{value:.1f}" for name, value in compile_seconds.items()}},
        [f"JAX {jax.__version__}"],
    )
    ratios = _report.quotients(seconds, _pairs())
    more = {"compile_seconds": compile_seconds}
    _report.finish(config, _report.record(config, ratios, GOALS[config.dtype], seconds, **more))


def _peers(config: Config, whole: Task, folder: Path) -> tuple[dict[str, Peer], dict[str, float]]:
    """Return all peers that there are, and the seconds that JAX's took to compile."""
    found = {"a C compiler": _peers_c.peers(whole, folder)}
    if config.dtype == "float64":
        found["numba"] = _peers_numba.peers(whole)
        found["NumPy"] = _peers_numpy.peers(whole, config.part_steps)
        found["PyTorch"] = _peers_torch.peers(whole, config.part_steps)
    peers: dict[str, Peer] = {}
    for what, theirs in found.items():
        if not theirs:
            rich.print(f"There is no {what.removeprefix('a ')} here: it is left out.")
        peers |= theirs
    # JAX last: from here on its threads are there.
    timed, compile_seconds = _peers_jax.peers(whole)
    return peers | timed, compile_seconds


def in_turn(peers: dict[str, Peer], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each peer; raise where the losses differ."""
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    reference = None
    for _ in range(repeats):
        for name, peer in peers.items():
            taken, losses = peer()
            seconds[name].append(taken)
            if losses is not None:
                reference = losses if reference is None else reference
                compare(name, losses, reference)
    return seconds


def _pairs() -> list[tuple[str, str]]:
    """Return whose times are divided by whose."""
    others = (
        _peers_c.PLAIN,
        _peers_numba.PARALLEL,
        BY_HAND,
        _peers_numpy.NAME,
        _peers_torch.NAME,
    )
    return [
        *((ours, _peers_c.YARDSTICK) for ours in OURS),
        *((RECORDED, other) for other in others),
    ]


if __name__ == "__main__":
    main(tyro.cli(Config))
