"""Tests of the command of the heatmaps: its files, resuming, and the test images."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from experiments.heatmaps import best, report, runs
from experiments.heatmaps.config import ALIASES, LENGTHS, VARIANTS
from nested_jax import plots
from nested_jax.sweeps import load
from tests.experiments import support
from tests.experiments.test_heatmaps import SMALL


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Return the folder of a small run."""
    out = tmp_path_factory.mktemp("heatmaps") / "out"
    printed = support.finished("heatmaps", SMALL, out)
    assert "part 14 of 14: run length" in printed
    return out


def read(folder):
    return {name: load(folder / f"{name}.nc") for name in (*VARIANTS, LENGTHS)}


@pytest.mark.slow
def test_writes_every_training_and_slope(done):
    lines = (done / "runs.csv").read_text().splitlines()
    assert lines[0] == (
        "variant,learning_rate,across,value,seed,"
        "train_loss,train_error,validation_loss,validation_error,diverged"
    )
    assert len(lines) == 1 + 16 * 132 * 2
    name, rate, across, value, seed, loss, *_ = lines[-1].split(",")
    stored = read(done)[name].train_loss.sel(
        learning_rate=float(rate), **{across: float(value)}, seed=int(seed)
    )
    np.testing.assert_allclose(float(loss), stored, rtol=1e-8)
    described = json.loads((done / "diagonality.json").read_text())
    assert len(described["variants"]) == 14
    assert len(described["normalized_less_not"]) == 4
    assert (done / "report.html").read_text().count("<svg") == 6


@pytest.mark.slow
def test_the_test_images_are_evaluated_for_the_best_cells_alone(done):
    stored = read(done)
    assert "test_loss" not in stored.pop(LENGTHS)
    for name, results in stored.items():
        assert results.test_loss.dims == ("seed",), name
        if name in ALIASES:
            plain = stored[ALIASES[name]]
            np.testing.assert_array_equal(results.test_loss, plain.test_loss)
            continue
        manifest = json.loads((done / "store" / name / "test" / "manifest.json").read_text())
        grid = {axis: values[axis] for axis, values in manifest["fingerprint"]["grid"]}
        cell = best.best_cell(results)
        across = VARIANTS[name].across
        assert grid == {
            "learning_rate": [float(cell.learning_rate)],
            across: [float(cell[across])],
            "seed": list(range(SMALL.seeds)),
        }


@pytest.mark.slow
def test_a_report_is_rebuilt_from_what_is_stored(done, tmp_path):
    sections = report.sections(SMALL, read(done))
    files = {name: text for section in sections for name, text in section.files.items()}
    assert set(files) == {"runs.csv", "diagonality.json"}
    for name, text in files.items():
        assert text == (done / name).read_text(), name
    # One figure says whether figures, too, are made of what is stored.
    figure, _ = sections[-1].figures["validation_loss"]
    plots.save(figure, tmp_path / "validation_loss.png")
    stored = (done / "figures" / "validation_loss.png").read_bytes()
    assert (tmp_path / "validation_loss.png").read_bytes() == stored


FEW = ("adamw-cosine", "adamw-warm_restarts-normalized", "adafactor")
KILLED = """
import sys
from experiments import __main__
from experiments.heatmaps import runs
runs.VARIANTS = {name: runs.VARIANTS[name] for name in sys.argv.pop(1).split()}
__main__.main()
"""


@pytest.mark.slow
def test_killed_and_started_again_it_gives_the_same_numbers(done, tmp_path, monkeypatch):
    out = tmp_path / "out"
    options = [str(word) for word in ("heatmaps", *support.options_of(SMALL, out))]
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, " ".join(FEW), *options],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL,
    )
    with process:
        deadline = time.monotonic() + 300
        while len([*out.glob("store/*/*/*.npz")]) < 3 and process.poll() is None:
            assert time.monotonic() < deadline, "no chunk was stored"
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    stored = {path: path.stat().st_mtime_ns for path in out.glob("store/*/*/*.npz")}
    assert len(stored) >= 3
    assert not (out / "report.html").exists()
    # Reports are made of results alone: here they are what has to be the same.
    seen = {}
    monkeypatch.setattr(runs, "VARIANTS", {name: VARIANTS[name] for name in FEW})
    monkeypatch.setattr(report, "sections", lambda config, results: seen.update(results) or [])
    assert support.run("heatmaps", *support.options_of(SMALL, out)) == 0
    assert {path: path.stat().st_mtime_ns for path in stored} == stored, "computed again"
    for name in (*FEW, LENGTHS):
        xr.testing.assert_equal(seen[name], read(done)[name])
