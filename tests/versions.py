"""Run the fast tests on other versions of Python and JAX, each in an environment of its own.

    make versions                         # every setting below
    make versions ARGS="floors newest"    # these, as CI does
    make versions-update                  # resolve the versions anew

Environments are made by uv in build/versions. Interpreters are looked for on PATH and under pyenv.
One table at the end says what ran and how it ended; an interpreter that is missing is named. The
exit code is 1 if a test failed, or if nothing could run.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
NEWEST, FLOORS = ROOT / "constraints-newest.txt", ROOT / "constraints-floors.txt"
EXTRAS = ("test", "bench")
# Experiments are run by `make test` on one version; of them the level sweep stands for all here.
LEFT_OUT = (
    "adafactor",
    "adam",
    "adam_vs_sgd",
    "adam_vs_sgd_numbers",
    "adam_vs_sgd_training",
    "data",
    "every",
    "heatmaps",
    "models",
    "momentum",
    "stability",
    "timescales",
)


class Setting(NamedTuple):
    """Versions to run the tests on.

    Attributes:
        pythons: The first of these interpreters that is there.
        constraints: The file that pins all packages.
        jax: A version of JAX in place of the pinned one.
    """

    pythons: tuple[str, ...]
    constraints: Path
    jax: str | None = None


SETTINGS = {
    "floors": Setting(("3.11",), FLOORS),
    # What machines with GPUs have.
    "jax-0.11": Setting(("3.12",), NEWEST, jax="0.11.2"),
    "newest": Setting(("3.13", "3.12", "3.11"), NEWEST),
}


class Outcome(NamedTuple):
    """One row of the table."""

    setting: str
    python: str
    jax: str
    tests: str
    minutes: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.versions", description=__doc__)
    parser.add_argument("settings", nargs="*", help=f"of {', '.join(SETTINGS)}; all if none")
    parser.add_argument("--update", action="store_true", help="resolve the constraint files anew")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.settings if name not in SETTINGS]
    if unknown:
        parser.error(f"`settings` must be of {', '.join(SETTINGS)}, got {unknown[0]}.")
    if options.update:
        return update()
    failed, outcomes = False, []
    for name in options.settings or SETTINGS:
        setting = SETTINGS[name]
        python = next(filter(None, map(interpreter, setting.pythons)), None)
        if python is None:
            missing = f"there is no Python {' or '.join(setting.pythons)}"
            outcomes.append(Outcome(name, "–", "–", missing, 0))
            continue
        code, outcome = run(name, setting, python)
        failed |= bool(code)
        outcomes.append(outcome)
    show(outcomes)
    return int(failed or not any(outcome.minutes for outcome in outcomes))


def interpreter(version: str) -> str | None:
    """Return an interpreter of a version; the first that runs, as a shim of pyenv's may not."""
    for path in candidates(version):
        found = subprocess.run([path, "-c", "1"], check=False, capture_output=True)
        if not found.returncode:
            return path
    return None


def candidates(version: str) -> Iterator[str]:
    """Yield where an interpreter may be."""
    on_path = shutil.which(f"python{version}")
    if on_path:
        yield on_path
    if shutil.which("pyenv"):
        root = subprocess.run(["pyenv", "root"], check=True, capture_output=True, text=True)
        versions = Path(root.stdout.strip()) / "versions"
        yield from map(str, sorted(versions.glob(f"{version}.*/bin/python"), reverse=True))


def run(name: str, setting: Setting, python: str) -> tuple[int, Outcome]:
    """Make the environment and run the fast tests in it; return the exit code and the row."""
    started = time.monotonic()
    folder = ROOT / "build" / "versions" / name
    shutil.rmtree(folder, ignore_errors=True)
    uv("venv", "--quiet", "--python", python, str(folder))
    own = str(folder / "bin" / "python")
    constraints = pinned(setting, folder / "constraints.txt")
    checkout = f"{ROOT}[{','.join(EXTRAS)}]"
    uv("pip", "install", "--quiet", "--python", own, "-c", str(constraints), "--editable", checkout)
    read = "import sys, jax; print(sys.version.split()[0], jax.__version__)"
    found = subprocess.run([own, "-c", read], check=True, capture_output=True, text=True)
    own_python, jax = found.stdout.split()
    print(f"\n{name}: Python {own_python}, JAX {jax}", flush=True)
    command = [own, "-m", "pytest", "-n", "auto", "-m", "not slow", "-p", "no:cacheprovider"]
    command += [f"--ignore=tests/experiments/test_{name}.py" for name in LEFT_OUT]
    last = "no result"
    # As users compile; `make test` leaves out most optimizations.
    stock = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "false", "XLA_FLAGS": ""}
    pipes = {"cwd": ROOT, "env": stock, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True) as tests:
        for line in tests.stdout or ():
            print(line, end="", flush=True)
            last = line if re.search(r"\d+ (passed|failed|error)", line) else last
    words = re.sub(r" in [\d.]+s.*", "", last.strip("= \n"))
    minutes = (time.monotonic() - started) / 60
    return tests.returncode, Outcome(name, own_python, jax, words, minutes)


def pinned(setting: Setting, path: Path) -> Path:
    """Return the constraint file of a setting, written to `path` if it has a JAX of its own."""
    if setting.jax is None:
        return setting.constraints
    lines = setting.constraints.read_text().splitlines()
    others = [line for line in lines if not re.match(r"jax(lib)?==", line)]
    path.write_text("\n".join([*others, f"jax=={setting.jax}", f"jaxlib=={setting.jax}", ""]))
    return path


def update() -> int:
    """Resolve both constraint files: the newest of everything, and the lowest that is declared."""
    extras = [word for extra in (*EXTRAS, "docs", "lint") for word in ("--extra", extra)]
    common = ("pip", "compile", "--quiet", "--no-header", "--no-annotate", "--upgrade", *extras)
    project, lowest = str(ROOT / "pyproject.toml"), ("--resolution", "lowest-direct")
    python = ("--universal", "--python-version", "3.11")
    uv(*common, *python, "--output-file", str(NEWEST), project)
    uv(*common, *python[1:], *lowest, "--output-file", str(FLOORS), project)
    return 0


def uv(*words: str) -> None:
    """Run uv, without the constraints that the Makefile sets for pip."""
    environment = {name: value for name, value in os.environ.items() if name != "UV_CONSTRAINT"}
    subprocess.run([sys.executable, "-m", "uv", *words], check=True, env=environment)


def show(outcomes: Sequence[Outcome]) -> None:
    """Print the table."""
    rows = [Outcome._fields, *((*row[:-1], f"{row.minutes:.1f}") for row in outcomes)]
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
    print()
    for row in rows:
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)))


if __name__ == "__main__":
    sys.exit(main())
