"""Tests of the level sweep: the published numbers, other settings, files and errors."""

import csv
import dataclasses
import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import xarray as xr

from experiments import _artifacts, levels
from experiments._rust_stream import published_stream
from nested_jax import plots
from tests.experiments import support
from tests import oracles

# Both programs round differently at every one of 30,000 steps. The issue is 1e-9; unstable runs
# multiply early differences and the loss alike, so that what remains stays near rounding.
PUBLISHED_RTOL = 1e-11
ORACLE_RTOL = 1e-11
SMALL = levels.Config(model_levels=3, data_levels=2, dim=4, steps=1203, warmup=200)


_quickly = support.compiled_quickly


@pytest.fixture(scope="module")
def published():
    """Return the default sweep, run once."""
    with jax.enable_x64(True), support.compiling(quickly=False):
        return levels.simulate(levels.Config())


@pytest.fixture(scope="module")
def of_stream():
    """Return a function to the results of 8 seeds on a stream, computed once."""

    @functools.cache
    def simulated(stream):
        with jax.enable_x64(True):
            return levels.simulate(dataclasses.replace(SMALL, seeds=8, stream=stream))

    return simulated


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Run a small sweep; return its folder and what it printed."""
    out = tmp_path_factory.mktemp("levels") / "results"
    return out, support.finished("levels", SMALL, out)


@pytest.fixture
def drawn_once(monkeypatch):
    """Draw figures for the page alone."""
    monkeypatch.setattr(plots, "save", lambda figure, path: None)


def finished(out, **changes):
    return support.finished("levels", dataclasses.replace(SMALL, **changes), out)


def test_published_losses_are_reproduced(published):
    assert published.loss.dtype == np.float64
    difference = levels.published_difference(levels.Config(), published)
    assert difference < PUBLISHED_RTOL


def test_published_regressions_are_reproduced(published):
    from experiments import _levels_report

    found = _levels_report.regressions(published)
    log = {term.name: term for term in found["log_loss"].terms}
    shown = {
        name: tuple(round(x, 4) for x in (t.estimate, t.std_error, t.low, t.high, t.p))
        for name, t in log.items()
    }
    assert shown == {
        "Intercept": (-23.4943, 4.5257, -32.3946, -14.5940, 0.0),
        "model_level": (12.9085, 0.2984, 12.3216, 13.4954, 0.0),
        "data_level": (-0.0347, 0.2984, -0.6216, 0.5522, 0.9075),
    }
    assert round(found["log_loss"].r_squared, 4) == 0.8394
    raw = {term.name: (term.estimate, term.std_error) for term in found["loss"].terms}
    expected = {
        "Intercept": (-7.593125971676636e75, 3.142347707867816e75),
        "model_level": (1.451237950856866e75, 2.072002719188009e74),
        "data_level": (9.754508443968440e73, 2.072002719188007e74),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(raw[name], values, rtol=1e-10)


def test_predicted_slopes_are_those_of_the_published_losses(published, x64):
    from experiments import _levels_report

    results = published.assign(predicted_loss=levels.predict(levels.Config()))
    fitted = _levels_report.regressions(results)["log_loss"]
    predicted = _levels_report.predicted_regression(results)
    for mine, theirs in zip(predicted.terms, fitted.terms, strict=True):
        assert abs(mine.estimate - theirs.estimate) < theirs.std_error
    # Where the loss is stationary, one run of each is within a tenth; the edge is at 5 levels.
    ratio = results.predicted_loss / results.loss
    assert (abs(ratio.sel(model_level=slice(1, 4)) - 1) < 0.1).all()
    steep = results.sel(model_level=slice(8, None))
    assert (abs(np.log(steep.predicted_loss) / np.log(steep.loss) - 1) < 0.15).all()


@pytest.mark.parametrize("seed", [0, 2**64 - 2])
def test_other_settings_agree_with_the_oracle(seed, x64):
    config = levels.Config(
        model_levels=4,
        data_levels=3,
        dim=5,
        decay=0.8,
        learning_rate=0.03,
        steps=1501,
        warmup=77,
        noise_std=0.5,
        model_seed=seed,
        data_seed=seed + 1,
    )
    losses = levels.simulate(config).loss
    stream = published_stream(dim=5, data_levels=3, steps=1501, model_seed=seed, data_seed=seed + 1)
    for m, d in [(1, 1), (2, 3), (4, 2)]:
        z = stream.data[5 * d :][: 1501 * 11].reshape(1501, 11)
        _, expected = oracles.drifting_regression(
            stream.model,
            stream.data[: 5 * d].reshape(d, 5),
            z[:, :5],
            z[:, 5:10],
            z[:, 10],
            decays=[0.8] * (m - 1),
            learning_rate=0.03,
            data_decay=0.8,
            noise_std=0.5,
            warmup=77,
        )
        actual = losses.sel(model_level=m, data_level=d)
        np.testing.assert_allclose(actual, expected, rtol=ORACLE_RTOL)


@pytest.mark.parametrize("stream", ["published", "jax"])
def test_a_seed_axis_is_the_single_seeds(stream, of_stream, x64):
    together = of_stream(stream).loss
    assert together.dims == ("model_level", "data_level", "seed")
    config = dataclasses.replace(SMALL, model_seed=43, data_seed=124, stream=stream)
    second = levels.simulate(config).loss
    np.testing.assert_allclose(together.isel(seed=1), second, rtol=ORACLE_RTOL)


def test_jax_stream_says_the_same_as_the_published_one(of_stream):
    # The losses of two levels, averaged over data levels: 8 seeds, each of 1,000 examples.
    means = {}
    for stream in ("published", "jax"):
        loss = of_stream(stream).loss.mean(["model_level", "data_level"])
        means[stream] = float(loss.mean()), float(loss.std() / 8**0.5)
    (first, error), (second, other) = means.values()
    assert abs(first - second) < 5 * (error + other)  # Five standard errors.


@pytest.mark.parametrize("stream", ["published", "jax"])
@pytest.mark.parametrize(("implementation", "kernels"), [("scan", False), ("pallas", True)])
def test_runs_as_kernels_if_asked_to(stream, implementation, kernels, x64):
    config = dataclasses.replace(SMALL, stream=stream, implementation=implementation)
    numbers = {name: np.int32(1) for name in ("model_level", "data_level", "seed")}
    traced = jax.jit(levels.function(config)).trace(**numbers)
    assert ("descent_kernel" in str(traced.jaxpr)) == kernels


def test_writes_every_file(done):
    out, printed = done
    assert "6 runs, 0 of them diverged" in printed
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
    assert made["config"] == _artifacts.describe(SMALL)
    assert {"versions", "commit", "device", "run_seconds"} <= set(made)
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 3
    assert "6 runs, 0 of them diverged" in page
    assert "Slopes of the log loss" in page
    assert 'href="../stability/report.html"' in page
    fitted, predicted = (regression[n]["terms"] for n in ("log_loss", "predicted_log_loss"))
    assert [term["name"] for term in predicted] == [term["name"] for term in fitted]
    assert results.predicted_loss.dims == ("model_level", "data_level")
    assert support.is_self_contained(page)
    assert "python -m experiments levels --model-levels 3 --data-levels 2 --dim 4 " in page
    names = {path.name for path in (out / "figures").iterdir()}
    assert names == {"losses.png", "loss_by_model_level.png", "loss_by_data_level.png"}
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


def test_several_seeds_are_a_column(tmp_path, drawn_once):
    finished(tmp_path / "a", seeds=2, stream="jax")
    lines = (tmp_path / "a" / "losses.csv").read_text().splitlines()
    assert lines[0] == "model_level,data_level,seed,loss"
    assert len(lines) == 1 + 12


def test_diverged_runs_end_in_a_table_that_says_so(tmp_path, drawn_once):
    printed = finished(tmp_path / "a", learning_rate=50.0)
    assert "6 runs, 6 of them diverged, 6 beyond the range of numbers." in printed
    assert "nan*" in printed
    assert ",nan" in (tmp_path / "a" / "losses.csv").read_text()
    assert "diverged" in (tmp_path / "a" / "report.html").read_text()


def test_one_run_has_no_regression_and_says_so(tmp_path, drawn_once):
    printed = finished(tmp_path / "a", model_levels=1, data_levels=1)
    assert "`data` must hold more rows than the 3 terms" in printed
    regression = json.loads((tmp_path / "a" / "regression.json").read_text())
    assert "more rows" in regression["loss"]["error"]


def test_whoever_stops_reading_gets_the_report_all_the_same(tmp_path):
    out = tmp_path / "levels"
    command = [sys.executable, "-m", "experiments", "levels", *support.options_of(SMALL, out)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*map(str, command)], cwd=Path(__file__).parents[2], **pipes) as process:
        process.stdout.close()  # As `| head` does.
        assert process.stderr.read() == b""
    assert process.returncode == 1
    assert (out / "report.html").exists()
