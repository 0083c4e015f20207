"""Tests of the level sweep: the published numbers, other settings, files and errors."""

import csv
import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.stats
import xarray as xr

from experiments import lab
from experiments.levels import EXPERIMENT, conjectures, distance, figures, report, runs
from experiments.levels.config import Config
from experiments.levels.predictions import predict
from experiments.levels.rust_stream import published_stream
from nested_jax import plots, theory
from tests import oracles
from tests.experiments import support

# Both programs round differently at every one of 30,000 steps. The issue is 1e-9; unstable runs
# multiply early differences and the loss alike, so that what remains stays near rounding.
PUBLISHED_RTOL = 1e-11
ORACLE_RTOL = 1e-11
SMALL = Config(model_levels=3, data_levels=2, dim=4, steps=1203, warmup=200)


def simulate(config, folder):
    """Return the results of a configuration."""
    where = lab.Lab(folder=folder, device=jax.devices()[0], parts=EXPERIMENT.parts)
    return runs.simulate(config, where)["results"]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Return the default sweep, run once."""
    with jax.enable_x64(True), support.compiling(quickly=False):
        return simulate(Config(), tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def of_stream(tmp_path_factory):
    """Return a function to the results of 8 seeds on a stream, computed once."""

    @functools.cache
    def simulated(stream):
        with jax.enable_x64(True):
            config = dataclasses.replace(SMALL, seeds=8, stream=stream)
            return simulate(config, tmp_path_factory.mktemp(stream))

    return simulated


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Run a small sweep; return its folder and what it printed."""
    out = tmp_path_factory.mktemp("levels") / "results"
    return out, " ".join(support.finished("levels", SMALL, out).split())


def finished(out, **changes):
    printed = support.finished("levels", dataclasses.replace(SMALL, **changes), out)
    return " ".join(printed.split())  # The terminal wraps lines.


def test_published_losses_are_reproduced(published):
    assert published.loss.dtype == np.float64
    difference = report.published_difference(Config(), published)
    assert difference < PUBLISHED_RTOL


def test_published_regressions_are_reproduced(published):
    found = report.regressions(published)
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
    results = published.assign(predict(Config()))
    fitted = report.regressions(results)["log_loss"]
    predicted = report.predicted_regression(results)
    for mine, theirs in zip(predicted.terms, fitted.terms, strict=True):
        assert abs(mine.estimate - theirs.estimate) < theirs.std_error
    # Where the loss is stationary, one run of each is within a tenth; the edge is at 5 levels.
    ratio = results.predicted_loss / results.loss
    assert (abs(ratio.sel(model_level=slice(1, 4)) - 1) < 0.1).all()
    steep = results.sel(model_level=slice(8, None))
    assert (abs(np.log(steep.predicted_loss) / np.log(steep.loss) - 1) < 0.15).all()


@pytest.mark.parametrize("seed", [0, 2**64 - 2])
def test_other_settings_agree_with_the_oracle(seed, tmp_path, x64):
    config = Config(
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
    losses = simulate(config, tmp_path).loss
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
def test_a_seed_axis_is_the_single_seeds(stream, of_stream, tmp_path, x64):
    together = of_stream(stream).loss
    assert together.dims == ("model_level", "data_level", "seed")
    config = dataclasses.replace(SMALL, model_seed=43, data_seed=124, stream=stream)
    second = simulate(config, tmp_path).loss
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
    traced = jax.jit(runs.function(config)).trace(**numbers)
    assert ("descent_kernel" in str(traced.jaxpr)) == kernels


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


# The figure.

RTOL = 1e-12  # One logarithm, a mean and a median of float64: a few roundings.


def losses(shape=(4, 3), seeds=None):
    """Return losses from 0.01 to 1e77, growing along model_level."""
    rng = np.random.default_rng(0)
    exponents = np.linspace(-2, 77, shape[0])[:, None] + rng.uniform(0, 0.5, shape)
    dims, levels = ("model_level", "data_level"), [np.arange(1, n + 1) for n in shape]
    made = xr.DataArray(10**exponents, dict(zip(dims, levels, strict=True)), dims)
    noise = xr.DataArray(10 ** rng.normal(size=seeds or 1), dims="seed")
    return made * noise if seeds else made


def bold(figure):
    (container,) = figure.axes[0].containers
    return container.lines[0].get_ydata()


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_curves_are_the_losses_and_their_median():
    drawn, logarithms = losses(), np.log10(losses().to_numpy())
    figure = figures.loss_by_level(drawn)
    ax = figure.axes[0]
    for j, line in enumerate(ax.lines[:3]):
        np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3, 4])
        np.testing.assert_allclose(line.get_ydata(), logarithms[:, j], rtol=RTOL)
    np.testing.assert_allclose(bold(figure), np.median(logarithms, axis=1), rtol=RTOL)
    assert not ax.containers[0].has_yerr
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("model level", "log₁₀ mean loss")
    assert figure.axes[1].get_ylabel() == "data level"
    assert legend(figure) == ["median over data levels"]


def test_seeds_give_a_t_interval_of_the_mean():
    figure = figures.loss_by_level(losses(seeds=5).transpose("data_level", "seed", ...))
    logarithms = np.log10(losses(seeds=5).to_numpy())
    medians = np.median(logarithms, axis=1)
    mean, sem = medians.mean(axis=1), scipy.stats.sem(medians, axis=1)
    low, high = scipy.stats.t.interval(0.95, 4, mean, sem)
    np.testing.assert_allclose(bold(figure), mean, rtol=RTOL)
    segments = np.array(figure.axes[0].containers[0].lines[2][0].get_segments())
    np.testing.assert_allclose(segments[:, :, 1], np.stack([low, high], 1), rtol=1e-9)
    thin = figure.axes[0].lines[0].get_ydata()
    np.testing.assert_allclose(thin, logarithms[:, 0].mean(axis=1), rtol=RTOL)
    assert legend(figure)[0].startswith("mean over 5 seeds of the median over data levels\n(bars")


def test_losses_without_a_logarithm_are_gaps_marked_and_counted(tmp_path):
    drawn = losses((4, 5))
    drawn[2, 1], drawn[3, :4], drawn[0, 0] = np.nan, np.inf, 0.0
    figure = figures.loss_by_level(drawn)
    marks = {line.get_label(): line for line in figure.axes[0].lines}
    up, down = marks["not finite (5 of 20)"], marks["zero (1 of 20)"]
    assert (up.get_xdata().tolist(), up.get_ydata().tolist()) == ([3, 4], [1, 1])
    assert (down.get_xdata().tolist(), down.get_ydata().tolist()) == ([1], [0])
    assert up.get_transform() == figure.axes[0].get_xaxis_transform()
    assert np.isnan(figure.axes[0].lines[1].get_ydata()).tolist() == [False, False, True, True]
    # NaN ranks last: the median of level 3 is the third of five; that of level 4 is not finite.
    row = np.log10(np.sort(drawn[2].fillna(np.inf)))
    np.testing.assert_allclose(bold(figure)[2], row[2], rtol=RTOL)
    assert np.isnan(bold(figure)[3])
    plots.save(figure, tmp_path / "losses.png", dpi=20.0)


def test_a_seed_that_diverged_leaves_a_gap_and_no_bar():
    drawn = losses(seeds=5)
    drawn.loc[{"seed": 0, "model_level": 4}] = np.inf
    figure = figures.loss_by_level(drawn)
    assert np.isnan(bold(figure)).tolist() == [False, False, False, True]
    assert "not finite (3 of 60)" in legend(figure)


def test_predictions_are_dashed():
    drawn = losses()
    predicted = (2 * drawn).T
    predicted[:, 3] = np.inf
    figure = figures.loss_by_level(drawn, predicted=predicted)
    found = {line.get_label(): line for line in figure.axes[0].lines}
    expected = np.log10(2 * drawn.median("data_level").to_numpy())
    np.testing.assert_allclose(found["predicted"].get_ydata()[:3], expected[:3], rtol=RTOL)
    assert np.isnan(found["predicted"].get_ydata()[3])
    assert found["predicted"].get_linestyle() == "--"
    assert found["predicted not finite (1 of 4)"].get_xdata().tolist() == [4]


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1), (30, 2)])
def test_every_sweep_can_be_drawn(shape, tmp_path):
    drawn = losses(shape) * 1e230  # Near the largest float.
    plots.save(figures.loss_by_level(drawn), tmp_path / "losses.png", dpi=20.0)
    plots.save(figures.loss_by_level(drawn * np.nan), tmp_path / "nan.png", dpi=20.0)


def test_the_references_are_the_published_streams_own(published):
    """The table of the best possible loss and of answering 0, to its printed digits."""
    bound = [round(float(x), 4) for x in published.tracking_bound.sel(data_level=[1, 2, 3, 4, 5])]
    assert bound == [0.1397, 0.0363, 0.0246, 0.0205, 0.0185]
    zero = [round(float(x), 4) for x in published.zero_loss.sel(data_level=[1, 2, 3, 8, 12])]
    assert zero == [0.2664, 0.1383, 0.1062, 0.0637, 0.0531]
    assert published.tracking_bound.dtype == np.float64
    # Over 2,000 steps within 1 % of all steps.
    few = published.tracking_bound.sel(data_level=[8, 12])
    np.testing.assert_allclose(few, [0.0158, 0.0143], rtol=1e-2)
    assert published.bound_steps.values.tolist() == [27_000] * 5 + [2_000] * 14
    assert (published.loss > published.tracking_bound).all()


def test_the_answer_counts_what_is_worse_than_always_answering_0(published):
    assert distance.answer(published.loss, published.diverged, published) == (
        "The best loss is 1.2 to 2.4 times the best possible one, and 41 of the 98 runs that "
        "converged are worse than always answering 0."
    )
    none = xr.ones_like(published.diverged)
    assert distance.answer(published.loss, none, published) == "No run converged."


def test_the_full_bound_takes_all_inputs(x64, tmp_path):
    config = Config(model_levels=1, data_levels=6, dim=2, steps=3_500, warmup=500)
    few = simulate(config, tmp_path / "a")
    full = simulate(dataclasses.replace(config, bound="full"), tmp_path / "b")
    assert few.bound_steps.values.tolist() == [3_000] * 5 + [2_000]
    assert full.bound_steps.values.tolist() == [3_000] * 6
    np.testing.assert_allclose(few.tracking_bound, full.tracking_bound, rtol=1e-2)
    inputs = runs._inputs(config, runs.function(config), 2)
    bound = theory.tracking_bound(2, 2, config.decay, config.noise_std, inputs=inputs, warmup=500)
    np.testing.assert_allclose(full.tracking_bound[1], bound, rtol=ORACLE_RTOL)  # In float64.
    assert few.tracking_bound[5] != full.tracking_bound[5]


def test_the_conjectures_are_answered_from_theory(x64):
    stable, shares = conjectures.cascades(Config(), predict(Config()).predicted_growth.values)
    assert stable == 5
    assert conjectures.amplification(Config(model_levels=5), 5).startswith("Amplification: no")
    assert "with up to 5 levels" in conjectures.amplification(Config(), 5)
    for m, t in [(1, 1), (2, 20), (3, 7)]:
        # The share of m - 1 averages after t steps: a negative binomial distribution.
        share = 1.0 if m == 1 else scipy.stats.nbinom.cdf(t - 1, m - 1, 1 - 0.95)
        assert shares[m][t - 1] == pytest.approx(share, rel=1e-9)
    assert "64 % with 2, 28 % with 3" in conjectures.vanishing(shares)
