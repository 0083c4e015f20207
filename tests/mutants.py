"""Mutation testing: change the library in one place at a time and see a test fail.

    make mutants                               # 150 mutants, 7 to 15 minutes
    make mutants ARGS="--count 40 --seed 1"    # another sample
    make mutants ARGS="_nesterov --count 20"   # of the files whose path contains a word

Every mutant changes one operator, constant, condition, index, dtype or keyword argument. It is
written into a copy of the package, in a temporary folder, and the tests of its file run there until
one fails. The tests of each file must pass in the copy first. Mutants that no test can see, as they
compute the same, are listed in `EQUIVALENT`, with the reason, and do not count. The exit code is 1
below a score of 95 %.
"""

import argparse
import difflib
import os
import queue
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutations import Mutant, mutants

ROOT = Path(__file__).parents[1]
# Kept between runs and outside the checkout: mutants share nearly all of their programs.
CACHE = os.environ.get("NESTED_JAX_CACHE", f"{tempfile.gettempdir()}/nested_jax_mutants")
COUNT, SEED, AT_ONCE, GOAL = 150, 0, 2, 0.95
COPIED = ("nested_jax", "tests", "pyproject.toml", "README.md")
# A mutant that loops for ever is killed after this multiple of what the tests take without it.
SLOWER, LEAST_SECONDS = 4, 60

# The tests that see a change of a file: modules, the fastest first, then the cases of the contract
# whose names begin with a word in brackets. The examples of its docstrings run before both.
TESTS = {
    "_core/cascade.py": "transforms/test_nested_momentum transforms/test_nested_decays"
    " transforms/test_readouts problems/test_drifting_regression [scale_by_nested_momentum",
    "_core/states.py": "transforms/test_nesterov transforms/test_metrics theory/test_edge",
    "_rollout.py": "test_rollout test_rollout_losses test_rollout_draws test_rollout_errors",
    "optimizers/_adafactor.py": "optimizers/test_adafactor [adafactor [factored_adamw",
    "optimizers/_adam.py": "optimizers/test_adam transforms/test_weight_decay [adam",
    "optimizers/_m3.py": "transforms/test_m3 [m3",
    "optimizers/_momentum.py": "optimizers/test_momentum transforms/test_nesterov"
    " transforms/test_nested_momentum transforms/test_nested_decays transforms/test_readouts"
    " [momentum [nesterov [nested_momentum",
    "problems/_classification.py": "problems/test_classification",
    "problems/_drifting_regression.py": "problems/test_drifting_regression",
    "problems/_folds.py": "problems/test_folds problems/test_classification",
    "problems/_online.py": "problems/test_online",
    "problems/_quadratic.py": "problems/test_quadratic",
    "schedules/_cycles.py": "schedules/test_pairs schedules/test_schedules"
    " schedules/test_traced_schedules schedules/test_exact_steps",
    "schedules/_pairs.py": "schedules/test_pairs schedules/test_schedules"
    " schedules/test_traced_schedules schedules/test_exact_steps",
    "schedules/_schedule.py": "schedules/test_schedules schedules/test_traced_schedules"
    " schedules/test_exact_steps",
    "schedules/_schedules.py": "schedules/test_schedules schedules/test_traced_schedules"
    " schedules/test_exact_steps",
    "schedules/_warmup.py": "schedules/test_schedules schedules/test_traced_schedules"
    " schedules/test_exact_steps",
    "transforms/_adam.py": "optimizers/test_adam [scale_by_adam",
    "transforms/_aggmo.py": "transforms/test_aggmo [scale_by_aggmo",
    "transforms/_clipping.py": "transforms/test_clipping [clip_by_block_rms",
    "transforms/_delta_gradient_descent.py": "transforms/test_delta_gradient_descent"
    " [delta_gradient_descent",
    "transforms/_delta_momentum.py": "transforms/test_delta_momentum [scale_by_delta_momentum",
    "transforms/_factored_rms.py": "transforms/test_factored_rms optimizers/test_adafactor"
    " [scale_by_factored_rms",
    "transforms/_m3.py": "transforms/test_m3 [scale_by_m3",
    "transforms/_matrices.py": "transforms/test_m3 transforms/test_delta_momentum [scale_by_m3"
    " [scale_by_delta_momentum",
    "transforms/_metrics.py": "transforms/test_metrics [with_metrics",
    "transforms/_momentum.py": "optimizers/test_momentum [scale_by_accumulated_momentum",
    "transforms/_nested_momentum.py": "transforms/test_nested_momentum"
    " transforms/test_nested_decays transforms/test_readouts transforms/test_periods"
    " [scale_by_nested_momentum",
    "transforms/_nesterov.py": "transforms/test_nesterov [scale_by_nesterov_momentum",
    "transforms/_periods.py": "transforms/test_periods [scale_by_nested_momentum",
    "transforms/_qhm.py": "transforms/test_qhm [scale_by_qhm",
    "transforms/_rate.py": "optimizers/test_momentum transforms/test_nesterov"
    " transforms/test_weight_decay transforms/test_metrics [scale_by_learning_rate",
    "transforms/_relative_step.py": "transforms/test_relative_step [scale_by_relative_step",
    "transforms/_weight_decay.py": "transforms/test_weight_decay [add_decoupled",
}
# (file, line, mutated line): why the two compute the same.
EQUIVALENT = {
    (
        "problems/_classification.py",
        "row = jax.ShapeDtypeStruct((1, *images.shape[1:]), jnp.asarray(images[:0]).dtype)",
        "row = jax.ShapeDtypeStruct((1, *images.shape[1:]), jnp.asarray(images[:1]).dtype)",
    ): "only the dtype of the slice is read",
    (
        "problems/_folds.py",
        "if shares.ndim != 1 or not (shares > 0).all() or abs(shares.sum() - 1) > 1e-9:",
        "if shares.ndim != 1 or not (shares > 0).all() or abs(shares.sum() - 1) >= 1e-9:",
    ): "no sum of float64 differs from 1 by this bound exactly",
    (
        "problems/_online.py",
        "if abs(p.sum() - 1) > SUM_TOLERANCE:",
        "if abs(p.sum() - 1) >= SUM_TOLERANCE:",
    ): "no sum of float64 differs from 1 by this bound exactly",
    (
        "schedules/_cycles.py",
        "NEVER = 2.0**40",
        "NEVER = 3.0**40",
    ): "both are beyond every step",
    (
        "transforms/_aggmo.py",
        "pairs = zip(decays, state.momenta, strict=True)",
        "pairs = zip(decays, state.momenta, strict=False)",
    ): "their lengths are compared before",
    (
        "transforms/_aggmo.py",
        "pairs = zip(decays, state.momenta, strict=True)",
        "pairs = zip(decays, state.momenta)",
    ): "their lengths are compared before",
    (
        "transforms/_delta_momentum.py",
        "if m.shape[-2] < m.shape[-1]:",
        "if m.shape[-2] <= m.shape[-1]:",
    ): "both products of a square matrix are as large",
    (
        "transforms/_metrics.py",
        "return jnp.where(nothing, 0, jnp.abs(m) / jnp.sqrt(jnp.where(nothing, 1, v)))",
        "return jnp.where(nothing, 0, jnp.abs(m) / jnp.sqrt(jnp.where(nothing, 2, v)))",
    ): "the quotient is not used where v is 0",
    (
        "transforms/_factored_rms.py",
        "keep, take = jnp.asarray(b2, t.dtype), jnp.asarray(complement(b2), t.dtype)",
        "keep, take = jnp.asarray(b2), jnp.asarray(complement(b2), t.dtype)",
    ): "`_divide` casts to the dtype of the moment, to the same bits",
    (
        "transforms/_factored_rms.py",
        "keep, take = jnp.asarray(b2, t.dtype), jnp.asarray(complement(b2), t.dtype)",
        "keep, take = jnp.asarray(b2, t.dtype), jnp.asarray(complement(b2))",
    ): "`_divide` casts to the dtype of the moment, to the same bits",
    (
        "transforms/_factored_rms.py",
        "keep = jnp.minimum(keep, jnp.asarray(b2_cap, t.dtype))",
        "keep = jnp.minimum(keep, jnp.asarray(b2_cap))",
    ): "the minimum is of the wider dtype, which is that of t",
    (
        "transforms/_factored_rms.py",
        "take = jnp.maximum(take, jnp.asarray(complement(b2_cap), t.dtype))",
        "take = jnp.maximum(take, jnp.asarray(complement(b2_cap)))",
    ): "the maximum is of the wider dtype, which is that of t",
    (
        "transforms/_nesterov.py",
        "scalars = (jnp.zeros((), float) for _ in range(2))",
        "scalars = (jnp.zeros(()) for _ in range(2))",
    ): "float is the default dtype",
    (
        "transforms/_rate.py",
        "return ScaleByLearningRateState(count=jnp.zeros((), jnp.int32), "
        "rate=jnp.zeros((), float))",
        "return ScaleByLearningRateState(count=jnp.zeros((), jnp.int32), rate=jnp.zeros(()))",
    ): "float is the default dtype",
    (
        "transforms/_relative_step.py",
        "step, rate = jnp.zeros((), jnp.int32), jnp.zeros((), float)",
        "step, rate = jnp.zeros((), jnp.int32), jnp.zeros(())",
    ): "float is the default dtype",
    (
        "transforms/_nested_momentum.py",
        "[(-1.0) ** (j + 1) * math.comb(n, j) for j in range(len(decays) + 1)]",
        "[(-1.0) ** (j + 1) * math.comb(n, j) for j in range(len(decays) + 2)]",
    ): "no stage has that many averages behind it",
    (
        "transforms/_nested_momentum.py",
        "for decay, take, gain in zip(decays[::-1], takes[::-1], gains[::-1], strict=True):",
        "for decay, take, gain in zip(decays[::-1], takes[::-1], gains[::-1], strict=False):",
    ): "their lengths are compared before",
    (
        "transforms/_nested_momentum.py",
        "for decay, take, gain in zip(decays[::-1], takes[::-1], gains[::-1], strict=True):",
        "for decay, take, gain in zip(decays[::-1], takes[::-1], gains[::-1]):",
    ): "their lengths are compared before",
    (
        "transforms/_weight_decay.py",
        "return AddDecoupledWeightDecayState(jnp.zeros((), jnp.int32), jnp.zeros((), float))",
        "return AddDecoupledWeightDecayState(jnp.zeros((), jnp.int32), jnp.zeros(()))",
    ): "float is the default dtype",
}


def population(words: Sequence[str] = ()) -> list[Mutant]:
    """Return all mutants of the files in `TESTS` whose path contains one of `words`."""
    files = [file for file in TESTS if not words or any(word in file for word in words)]
    sources = {file: (ROOT / "nested_jax" / file).read_text() for file in files}
    return [mutant for file, source in sources.items() for mutant in mutants(file, source)]


def command(names: Sequence[str], *first: str) -> list[str]:
    """Return the command that runs entries of `TESTS`, after other files."""
    cases = [name for name in names if name[0] == "["]
    tests = [*first, *(f"tests/{name}.py" for name in names if name not in cases)]
    if cases:
        tests += ["tests/testing/test_contract.py", "-k"]
        tests.append(" or ".join(["not test_contract", *cases]))
    options = ["-x", "-p", "no:cacheprovider", "-m", "not slow"]
    return [sys.executable, "-m", "pytest", *options, *tests]


def run(words: Sequence[str], folder: Path, seconds: float | None = None) -> int | None:
    """Run a command in a copy; return its exit code, or None if it took too long."""
    paths = {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "NESTED_JAX_CACHE": CACHE}
    try:
        return subprocess.run(
            words, cwd=folder, env=os.environ | paths, timeout=seconds, capture_output=True
        ).returncode
    except subprocess.TimeoutExpired:
        return None


def is_killed(mutant: Mutant, folder: Path, seconds: float) -> bool:
    """Return whether a test fails once the mutant is in the copy; then restore it."""
    path = folder / "nested_jax" / mutant.file
    original = path.read_text()
    path.write_text(mutant.source)
    first = ["tests/test_defaults.py"] if mutant.of_default else []
    try:
        words = command(TESTS[mutant.file].split(), *first, f"nested_jax/{mutant.file}")
        code = run(words, folder, seconds)
    finally:
        path.write_text(original)
    if code in (4, 5):
        raise RuntimeError(f"No tests ran for {mutant.file}: see `TESTS`.")
    return code != 0


def copied(folder: Path) -> Path:
    """Copy what the tests need into a new folder, and return it."""
    folder.mkdir(parents=True)
    for name in COPIED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Sample mutants, run their tests, print the table; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("words", nargs="*", help="parts of paths; all files if none")
    parser.add_argument("--count", type=int, default=COUNT, help="number of mutants")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of the sample")
    options = parser.parse_args(arguments)
    every = population(options.words)
    sample = random.Random(options.seed).sample(every, min(options.count, len(every)))
    sample.sort(key=lambda mutant: mutant.file)
    print(f"{len(sample)} of {len(every)} mutants, seed {options.seed}", flush=True)
    tested = [m for m in sample if (m.file, *m.lines) not in EQUIVALENT]
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(AT_ONCE) as pool:
        folders: queue.Queue[Path] = queue.Queue()
        for i in range(AT_ONCE):
            folders.put(copied(Path(temporary) / str(i)))
        killed = judged(tested, folders, pool)
    return show(sample, tested, killed)


def judged(
    tested: Sequence[Mutant], folders: "queue.Queue[Path]", pool: ThreadPoolExecutor
) -> list[bool]:
    """Return which mutants are killed, after the tests have passed without any."""
    limits: dict[str, float] = {}

    def passes(name):
        folder, started = folders.get(), time.monotonic()
        code = run(command([name]), folder)
        folders.put(folder)
        limits[name] = SLOWER * (time.monotonic() - started)
        return code == 0

    def judge(mutant):
        folder = folders.get()
        seconds = LEAST_SECONDS + sum(limits[name] for name in TESTS[mutant.file].split())
        killed = is_killed(mutant, folder, seconds)
        folders.put(folder)
        if not killed:
            print(described(mutant), flush=True)
        return killed

    names = [*dict.fromkeys(name for m in tested for name in TESTS[m.file].split())]
    failing = [name for name, good in zip(names, pool.map(passes, names), strict=True) if not good]
    if failing:
        raise SystemExit(f"The tests must pass without a mutation, got {', '.join(failing)}.")
    print(f"{len(names)} sets of tests pass without a mutation", flush=True)
    return [*pool.map(judge, tested)]


def described(mutant: Mutant) -> str:
    """Return a survivor with its difference."""
    original = (ROOT / "nested_jax" / mutant.file).read_text().splitlines()
    lines = difflib.unified_diff(original, mutant.source.splitlines(), n=0, lineterm="")
    changed = "\n".join(f"    {line}" for line in [*lines][3:])
    return f"survived: nested_jax/{mutant.file}:{mutant.number}\n{changed}"


def show(sample: Sequence[Mutant], tested: Sequence[Mutant], killed: Sequence[bool]) -> int:
    """Print the table of files and the score; return the exit code."""
    totals = Counter(mutant.file for mutant in tested)
    kills = Counter(m.file for m, dead in zip(tested, killed, strict=True) if dead)
    print(f"\n{'file':<32} killed  total")
    for file, total in totals.items():
        print(f"{file:<32} {kills[file]:>6} {total:>6}")
    score = sum(killed) / max(len(tested), 1)
    print(f"{'all':<32} {sum(killed):>6} {len(tested):>6}  {score:.1%}")
    print(f"left out as equivalent: {len(sample) - len(tested)}")
    return int(score < GOAL)


if __name__ == "__main__":
    sys.exit(main())
