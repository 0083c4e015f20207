"""Check nested_jax on a GPU, and measure it there: one command of at most nine minutes.

    make gpu                                         # or, without make:
    python -m benchmarks.gpu --out results/gpu
    python -m benchmarks.gpu --platform cpu --quick  # the same path on a CPU, two minutes

It needs no installation, only a checkout on PYTHONPATH and the packages jax, optax, flax, numpy,
jaxtyping, xarray, rich, scipy, scikit-learn and pytest. First the tests marked `gpu` run, then the
measurements, each beside the same on this machine's CPU. Every part is a process with a time limit:
if one fails or takes too long, that is reported and the others still run. `gpu.json` and `gpu.md`
in the folder are written anew after each part, so that nothing measured is lost.

The exit code is 1 if a test failed, or if a part failed or did not run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import _report
from nested_jax.sweeps import write_file

ROOT = Path(__file__).parents[1]
# Seconds for all of it, and what is left of them below which no part is started.
BUDGET, LEAST = 530.0, 10.0
PLATFORMS = ("gpu", "cpu")


class Part(NamedTuple):
    """One process.

    Attributes:
        name: What `benchmarks._gpu_parts` calls it, or "tests".
        platform: Where it runs.
        limit: Seconds that it may take.
    """

    name: str
    platform: str
    limit: float


# In this order: what is only known on a GPU comes first, in case time runs out.
PARTS = (
    Part("tests", "gpu", 200),
    Part("levels_scan", "gpu", 120),
    Part("levels_pallas", "gpu", 120),
    Part("heatmap", "gpu", 60),
    Part("update_step", "gpu", 120),
    Part("levels_scan", "cpu", 90),
    Part("heatmap", "cpu", 60),
    Part("update_step", "cpu", 120),
)
QUICK = (
    Part("tests", "cpu", 150),
    Part("levels_scan", "cpu", 60),
    Part("levels_pallas", "cpu", 60),
    Part("heatmap", "cpu", 60),
    Part("update_step", "cpu", 60),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all parts, write the record and the table, and return the exit code."""
    options = _options(arguments)
    deadline = time.monotonic() + options.budget
    record: dict[str, Any] = {"machine": _report.machine(), "quick": options.quick}
    record |= {"versions": _report.versions(), "driver": _driver(), "parts": []}
    for part in QUICK if options.platform == "cpu" else PARTS:
        left = deadline - time.monotonic()
        print(f"\n{part.name} on {part.platform}", flush=True)
        if left < LEAST:
            found: dict[str, Any] = {"failed": "did not run: the time was used up"}
        else:
            run = _tests if part.name == "tests" else _measurements
            found = run(part, min(part.limit, left), options.quick)
        record["parts"].append({"part": part.name, "platform": part.platform, **found})
        print(f"failed: {found['failed']}" if "failed" in found else "done", flush=True)
        _report.write(options.out / "gpu.json", record)
        write_file(options.out / "gpu.md", table(record))
    print(f"\n{table(record)}\nRecord: {options.out / 'gpu.json'}")
    return int(any("failed" in part for part in record["parts"]))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("results/gpu"), help="folder to write to")
    parser.add_argument("--platform", choices=PLATFORMS, default="gpu", help="where to run")
    parser.add_argument("--quick", action="store_true", help="small sizes: a test of the command")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for all of it")
    options = parser.parse_args(arguments)
    if not options.budget > 0:
        parser.error(f"`--budget` must be positive, got {options.budget}.")
    return options


def _driver() -> str | None:
    """Return name, driver and memory of each GPU, as its driver tells them."""
    command = [
        "nvidia-smi",
        "--query-gpu=name,driver_version,memory.total",
        "--format=csv,noheader",
    ]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def _environment(platform: str) -> dict[str, str]:
    """Return the environment of a process on a platform."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    more = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    # Several test workers share the device.
    more |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if platform == "cpu":
        more["JAX_PLATFORMS"] = "cpu"
    return os.environ | more


def _tests(part: Part, limit: float, quick: bool) -> dict[str, Any]:
    """Run the tests marked `gpu`; return how many passed, and what the others said."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "tests.xml"
        # A new version's deprecations are no failures here.
        options = ["-m", "gpu", "-o", "filterwarnings=default", "-p", "no:cacheprovider"]
        # Without `--dist` a module's tests all run on one worker, and this is one module.
        workers = ["-n", "2" if quick else "4", "--dist=worksteal"] if _has_xdist() else []
        command = [sys.executable, "-m", "pytest", "tests/test_gpu.py", *options, *workers]
        environment = _environment(part.platform) | {"NESTED_JAX_GPU": part.platform}
        problem = _finished([*command, f"--junitxml={log}"], environment, limit)
        if not log.exists():
            return {"failed": problem or "pytest wrote no results"}
        found: dict[str, Any] = {"passed": 0, "skipped": {}, "errors": {}}
        for case in ElementTree.parse(log).iter("testcase"):
            name = case.get("name", "?")
            said = {child.tag: child.get("message") or "" for child in case}
            if "skipped" in said:
                found["skipped"][name] = said["skipped"]
            elif {"failure", "error"} & said.keys():
                found["errors"][name] = said.get("failure", said.get("error", ""))[:500]
            else:
                found["passed"] += 1
    if found["errors"] or problem:
        found["failed"] = f"{len(found['errors'])} tests failed" if found["errors"] else problem
    return found


def _has_xdist() -> bool:
    import importlib.util

    return importlib.util.find_spec("xdist") is not None


def _measurements(part: Part, limit: float, quick: bool) -> dict[str, Any]:
    """Run a part of `benchmarks._gpu_parts`; return the rows that it came to."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.jsonl"
        command = [
            sys.executable,
            "-m",
            "benchmarks._gpu_parts",
            part.name,
            part.platform,
            str(out),
        ]
        problem = _finished([*command, *["--quick"] * quick], _environment(part.platform), limit)
        lines = out.read_text().splitlines() if out.exists() else []
    found: dict[str, Any] = {"rows": [json.loads(line) for line in lines]}
    return found | ({"failed": problem} if problem else {})


def _finished(command: list[str], environment: dict[str, str], limit: float) -> str | None:
    """Run a process; return what went wrong, its last words included, or None."""
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            timeout=limit,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"took more than {limit:.0f} s"
    if not done.returncode:
        return None
    print(done.stdout[-4000:], flush=True)
    words = [line for line in done.stdout.splitlines() if line.strip()] or ["no output"]
    return f"exit code {done.returncode}: {words[-1][:300]}"


def table(record: dict[str, Any]) -> str:
    """Return the record as Markdown: where it ran, the tests, and GPU beside CPU."""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    lines = [f"{record['driver'] or 'No NVIDIA GPU'}; {record['machine']}; {versions}.", ""]
    if record["quick"]:
        lines += ["Small sizes: a test of the command, not a measurement.", ""]
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for part in record["parts"]:
        name = f"{part['part']} on {part['platform']}"
        if "passed" in part:
            lines.append(f"- {name}: {part['passed']} passed, {len(part['errors'])} failed.")
            lines += [f"  - failed: {test}: {why}" for test, why in part["errors"].items()]
            lines += [f"  - skipped: {test}: {why}" for test, why in part["skipped"].items()]
        elif "failed" in part:
            lines.append(f"- {name}: {part['failed']}.")
        for row in part.get("rows", ()):
            rows.setdefault(row["what"], {})[part["platform"]] = row
    columns = ("GPU s", "compile s", "peak MiB", "CPU s", "compile s", "CPU / GPU")
    lines += ["", f"| what | {' | '.join(columns)} |", "|---" + "|--:" * len(columns) + "|"]
    for what, found in rows.items():
        gpu, cpu = found.get("gpu", {}), found.get("cpu", {})
        faster = cpu["seconds"] / gpu["seconds"] if gpu and cpu else None
        numbers = (gpu.get("seconds"), gpu.get("compile_seconds"), gpu.get("peak_mib"))
        cells = [*numbers, cpu.get("seconds"), cpu.get("compile_seconds"), faster]
        shown = ("" if cell is None else f"{cell:.3g}" for cell in cells)
        lines.append(f"| {what} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
