"""Tests of the command of the level sweep: its files, its report, resuming."""

import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr

from experiments import lab
from tests.experiments import support
from tests.experiments.test_levels import SMALL


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Run a small sweep; return its folder and what it printed."""
    out = tmp_path_factory.mktemp("levels") / "results"
    return out, " ".join(support.finished("levels", SMALL, out).split())


def finished(out, **changes):
    printed = support.finished("levels", dataclasses.replace(SMALL, **changes), out)
    return " ".join(printed.split())  # The terminal wraps lines.


def test_writes_every_file(done):
    out, printed = done
    assert "0 of 6 runs diverged." in printed
    assert "np.log(loss) ~ model_level + data_level" in printed

    with (out / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["model_level", "data_level", "loss"]
    results = xr.load_dataset(out / "results.nc")
    for row in rows:
        stored = results.loss.sel(
            model_level=int(row["model_level"]), data_level=int(row["data_level"])
        )
        assert float(row["loss"]) == float(stored)
    assert len(rows) == results.loss.size == 6
    regression = json.loads((out / "regression.json").read_text())
    assert {term["name"] for term in regression["log_loss"]["terms"]} == {
        "Intercept",
        "model_level",
        "data_level",
    }
    made = json.loads((out / "config.json").read_text())
    assert made["config"] == lab.describe(SMALL)
    assert {"versions", "commit", "device", "seconds"} <= set(made)
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 5
    assert "0 of 6 runs diverged." in page
    assert "Slopes of the log loss" in page
    assert 'href="../stability/report.html"' in page
    fitted, predicted = (regression[n]["terms"] for n in ("log_loss", "predicted_log_loss"))
    assert [term["name"] for term in predicted] == [term["name"] for term in fitted]
    assert results.predicted_loss.dims == ("model_level", "data_level")
    assert support.is_self_contained(page)
    assert "python -m experiments levels --model-levels 3 --data-levels 2 --dim 4 " in page
    names = {path.name for path in (out / "figures").iterdir()}
    drawn = "losses", "multiples", "responses", "loss_by_model_level", "loss_by_data_level"
    assert names == {f"{name}.png" for name in drawn}
    assert all(path.stat().st_size > 10_000 for path in (out / "figures").iterdir())
    assert not list(out.rglob(".*")), "a file was left aside"


def test_runs_again_into_its_own_folder_but_not_into_another(done, tmp_path, capsys, undrawn):
    out = tmp_path / "a"
    shutil.copytree(done[0], out)
    before = (out / "losses.csv").read_bytes()
    (out / "losses.csv").unlink()
    undrawn()
    finished(out)
    assert (out / "losses.csv").read_bytes() == before
    assert support.run("levels", *support.options_of(SMALL, out, decay=0.5)) == 2
    error = capsys.readouterr().err
    assert "`--out` must be a new folder or one of the same configuration" in error
    assert "--decay 0.95 and not 0.5" in error
    assert (out / "losses.csv").read_bytes() == before


def test_several_seeds_are_a_column(tmp_path, undrawn):
    undrawn()
    finished(tmp_path / "a", seeds=2, stream="jax")
    lines = (tmp_path / "a" / "losses.csv").read_text().splitlines()
    assert lines[0] == "model_level,data_level,seed,loss"
    assert len(lines) == 1 + 12


def test_diverged_runs_end_in_a_table_that_says_so(tmp_path, undrawn):
    undrawn()
    printed = finished(tmp_path / "a", learning_rate=50.0)
    assert (
        "Hypothesis: no run has a finite loss. 6 of 6 runs diverged, 6 of them beyond the range"
        in printed
    )
    assert "nan*" in printed
    assert ",nan" in (tmp_path / "a" / "losses.csv").read_text()
    assert "diverged" in (tmp_path / "a" / "report.html").read_text()


def test_one_run_has_no_regression_and_says_so(tmp_path, undrawn):
    undrawn()
    printed = finished(tmp_path / "a", model_levels=1, data_levels=1)
    assert "could not be fitted. There are too few finite rows for 3 terms." in printed
    regression = json.loads((tmp_path / "a" / "regression.json").read_text())
    assert "too few finite rows" in regression["loss"]["error"]


def test_whoever_stops_reading_gets_the_report_all_the_same(tmp_path):
    out = tmp_path / "levels"
    command = [sys.executable, "-m", "experiments", "levels", *support.options_of(SMALL, out)]
    # Some versions of XLA print false alarms when they load a program from a cache.
    own = os.environ | {"NESTED_JAX_CACHE": str(tmp_path / "cache")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": own}
    with subprocess.Popen([*map(str, command)], cwd=Path(__file__).parents[2], **pipes) as process:
        assert process.stdout.readline() == b"part 1 of 1: levels\n"
        process.stdout.close()  # As `| head -1` does.
        assert process.stderr.read() == b""
    assert process.returncode == 1
    assert (out / "report.html").exists()
