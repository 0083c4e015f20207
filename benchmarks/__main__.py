"""The command line: `python -m benchmarks [PART ...] [--check] [--keep]`."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rich.console
import rich.table
import tyro

from benchmarks import _check, _report

# Each part is a process of its own: the number of devices and XLA's flags are settled once in one.
PARTS = {
    "level_sweep": ("benchmarks.level_sweep",),
    "level_sweep_float32": ("benchmarks.level_sweep", "--dtype", "float32"),
    "sweep_scaling": ("benchmarks.sweep_scaling",),
    "start_up": ("benchmarks.start_up",),
    "heatmap": ("benchmarks.heatmap",),
    "pruning": ("benchmarks.pruning",),
    "update_step": ("benchmarks.update_step",),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Time nested_jax against peers, side by side in one run; see docs/explanation/benchmarks.md.

    Without parts, `--check` and `--keep` measure nothing and take what was measured last.
    """

    parts: tyro.conf.Positional[tuple[str, ...]] = ()
    """Parts to measure: level_sweep, level_sweep_float32, sweep_scaling, start_up, heatmap,
    pruning, update_step; all of them if none is named."""
    check: bool = False
    """Hold the ratios against the kept ones, and fail if any got worse."""
    keep: bool = False
    """Keep the ratios, for checks to come."""
    tolerance: float = _check.TOLERANCE
    """How many times a kept ratio another may be before it counts as worse."""
    results: Path = Path("results/bench")
    """Folder for the measurements, a file a machine."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and compare; return the exit code."""
    config = tyro.cli(Config, prog="python -m benchmarks", args=arguments)
    unknown = [part for part in config.parts if part not in PARTS]
    if unknown:
        return _fail(f"`PART` must be one of {', '.join(PARTS)}, got {unknown[0]}.")
    machine = _report.machine()
    path = config.results / _report.file_name(machine)
    chosen = config.parts or (() if config.check or config.keep else tuple(PARTS))
    failed = [part for part in chosen if not _measure(part, path, machine)]
    if not path.exists():
        return _fail(f"Nothing was measured: there is no {path}.")
    measured = json.loads(path.read_text())["parts"]
    measured = {part: measured[part] for part in chosen or measured if part not in failed}
    comparisons = _check.compare(measured, _kept(machine))
    _show(comparisons, config.tolerance, machine)
    print(f"Measurements: {path}")
    if config.keep:
        print(f"Kept: {_check.keep(measured, machine)}")
    if failed:
        return _fail(f"These parts failed: {', '.join(failed)}.")
    worse = [one for one in comparisons if one.worse(config.tolerance)] if config.check else []
    for one in worse:
        print(f"worse: {one.part}: {one.name}: {one.now:.3g}, kept {one.kept:.3g}", file=sys.stderr)
    return 1 if worse else 0


def _measure(part: str, path: Path, machine: str) -> bool:
    """Run a part and add its record to the machine's file; return whether it came to an end."""
    print(f"\n{part}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "record.json"
        command = [sys.executable, "-m", *PARTS[part], "--out", str(out)]
        done = subprocess.run(command, check=False, env=os.environ | {"COLUMNS": "130"})
        if done.returncode or not out.exists():
            return False
        record = json.loads(out.read_text())
    parts = json.loads(path.read_text())["parts"] if path.exists() else {}
    _report.write(path, {"machine": machine, "parts": parts | {part: record}})
    return True


def _kept(machine: str) -> dict[str, Any]:
    path = _check.kept_file(machine)
    if path is None:
        print(f"Nothing is kept for {machine}: `python -m benchmarks --keep` keeps these ratios.")
        return {}
    kept = json.loads(path.read_text())
    if kept["machine"] != machine:
        print(f"Nothing is kept for {machine}: these are the ratios of {kept['machine']}.")
    return kept["parts"]


def _show(comparisons: Sequence[_check.Comparison], tolerance: float, machine: str) -> None:
    """Print all ratios beside the kept ones and the goals."""
    table = rich.table.Table(title=f"Ratios, less is better; {machine}")
    table.add_column("part")
    table.add_column("ratio")
    for name in ("now", "kept", "goal"):
        table.add_column(name, justify="right")
    table.add_column("")
    for one in comparisons:
        numbers = (f"{x:.3g}" if x is not None else "" for x in (one.now, one.kept, one.goal))
        table.add_row(one.part, one.name, *numbers, _remark(one, tolerance))
    rich.console.Console(width=_report.WIDTH + 20).print(table)


def _remark(one: _check.Comparison, tolerance: float) -> str:
    if one.now is None:
        return "not measured"
    if one.kept is not None and not one.comparable:
        return "other options: not compared"
    if one.worse(tolerance):
        return f"worse, {one.now / one.kept:.2f} times" if one.kept else "worse"
    return "misses the goal" if one.goal is not None and not one.now <= one.goal else ""


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
