"""Tests of the command of Adam against SGD: the notes' picture, files, report, resuming."""

import json

import numpy as np
import pytest
import xarray as xr

from experiments.adam_vs_sgd import EXPERIMENT, numbers, races, report, runs, timing
from experiments.adam_vs_sgd.config import SPAN, Config
from experiments.adam_vs_sgd.methods import FEW, METHODS
from experiments.lab import data, models
from nested_jax.sweeps import load
from tests.experiments import support
from tests.experiments.adam_vs_sgd import SMALL, where


def fewer(monkeypatch):
    """Leave out most activations, each of which is a compilation or more."""
    words = {word: models.ACTIVATIONS[word] for word in ("relu", "tanh")}
    monkeypatch.setattr(models, "ACTIVATIONS", words)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder of a small run of the whole command."""
    out = tmp_path_factory.mktemp("adam_vs_sgd") / "results"
    with pytest.MonkeyPatch.context() as monkeypatch:
        fewer(monkeypatch)
        printed = support.finished("adam-vs-sgd", SMALL, out)
    assert printed.startswith(data.load().origin)
    assert "part 3 of 9: tuning\n" in printed
    return out


@pytest.mark.slow
def test_the_notes_picture(images, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "ONLINE_RATES", np.array([1e-3]))
    config = Config(methods="few", seeds=2, tuning_seeds=1)
    with support.compiling(quickly=False):
        results = runs.online(config, where(tmp_path, images))
    curve = results.curve.sel(penalised=1).isel(learning_rate=0)
    curves = {m: curve.sel(optimizer=m) for m in ("sgd", "adam")}
    assert curve.sizes["span"] * SPAN == 20_000
    assert numbers.ahead_from(curves) <= 3000
    last = {m: numbers.running_mean(c)[1][:, -1] for m, c in curves.items()}
    assert (last["adam"] < 0.5 * last["sgd"]).all()


@pytest.mark.slow
def test_writes_every_result_and_figure(folder):
    described = json.loads((folder / "config.json").read_text())
    assert described["parts"] == [*EXPERIMENT.parts]
    figures = {path.stem for path in (folder / "figures").iterdir()}
    assert figures == {
        "online",
        "online_rates",
        "gains",
        "rates",
        "final",
        "activations",
        "generalization",
    }
    page = (folder / "report.html").read_text()
    for name in FEW:
        assert METHODS[name].title in page
    found = load(folder / "timing.nc")
    assert found.seconds.shape == (len(FEW), 2)
    assert (found.seconds > 0).all()
    for method, copies in {"sgd": 0, "momentum": 1, "adam": 2}.items():
        assert float(found.state.sel(optimizer=method)) == pytest.approx(copies, abs=0.05)


@pytest.mark.slow
def test_times_that_are_damaged_are_refused(folder, images, tmp_path):
    path = tmp_path / "store" / "timing.nc"
    path.parent.mkdir()
    content = (folder / "store" / "timing.nc").read_bytes()
    for part in (b"", content[:100], content[:-100]):
        path.write_bytes(part)
        with pytest.raises(ValueError, match="`store` must have times that can be read, got "):
            timing.timing(SMALL, where(tmp_path, images))
    path.write_bytes(content)
    assert timing.timing(SMALL, where(tmp_path, images)).identical(load(folder / "timing.nc"))


@pytest.mark.slow
def test_the_report_states_the_stored_results(folder):
    results = {name: load(folder / f"{name}.nc") for name in EXPERIMENT.parts}
    sections = report.sections(SMALL, results)
    assert all(section.answer for section in sections)
    # A number by hand: Adam's test error, the median of 2 and both.
    errors = 100 * results["final"].test_error.sel(optimizer="adam").values
    table = sections[2].tables[0]
    cell = next(row for row in table.rows if row[0] == "Adam")[table.header.index("test error")]
    assert cell.startswith(f"{errors.mean():.3g} [{errors.min():.3g}, {errors.max():.3g}]")
    assert f"Adam {numbers.percent(errors)}" in sections[0].answer
    page = (folder / "report.html").read_text()
    assert all(
        section.answer.partition(";")[0].replace("'", "&#39;") in page for section in sections
    )


@pytest.mark.slow
def test_goes_on_where_it_was_stopped(folder, monkeypatch, undrawn):
    fewer(monkeypatch)
    store = folder / "store"
    files = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    page = folder / "report.html"
    text = support.text_of(page.read_text())
    lost, damaged, *_ = sorted((store / "tuning").glob("chunk-*"))[1:]
    lost.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-9])
    (folder / "final.nc").unlink()
    undrawn()
    support.finished("adam-vs-sgd", SMALL, folder)
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == files
    assert support.text_of(page.read_text()) == text


@pytest.mark.slow
def test_nothing_but_the_last_part_sees_the_test_images(folder, images, monkeypatch):
    fewer(monkeypatch)
    other = images._replace(test_images=images.test_images * np.float32(np.nan))
    there = where(folder, other)
    # A store accepts nothing that another program or other arguments would have made.
    for part in (runs.online, races.one_pass, runs.activations, runs.schedules, races.races):
        part(SMALL, there)
    validated = runs.tuning(SMALL, there)
    with pytest.raises(ValueError, match="differ in arguments"):
        runs.final(SMALL, there, validated)


def test_an_estimate_grows_with_the_examples(images, tmp_path, monkeypatch):
    # Of work that takes a second for every thousand examples and run.
    def swept(bound, grid, progress):
        seconds = 1e-3 * grid.size * bound
        return xr.Dataset(attrs={"run_seconds": seconds + 7})

    monkeypatch.setattr(runs, "_validated", lambda config, images: config.examples)
    monkeypatch.setattr(runs.nj, "sweep", swept)
    trained = 3 * 1 * 10 * 3 * 6 + 3 * 2 * 10 * 6  # Tuned, and with other activations.
    trained += 2 * 10 * 3 * 2 * 6 + 3 * 3 * 13 * 3 * 2  # Schedules, and other models.
    trained += 3 * 10 * 1 * 2  # Generalization.
    alone = 10 * 3 * 8 * 2 * 3 * (1 + 1438 / 1000)  # Online, and one pass.
    expected = 1e-3 * 1000 * (trained + alone)
    assert runs.estimate(SMALL, where(tmp_path, images)) == pytest.approx(expected)


def test_images_are_read_once(monkeypatch, tmp_path):
    calls, read = [], data.load

    def load(name, download):
        calls.append(name)
        return read(name, download=download)

    def simulate(config, lab):
        raise KeyboardInterrupt

    monkeypatch.setattr(data, "load", load)
    monkeypatch.setattr(runs, "simulate", simulate)
    assert support.run("adam-vs-sgd", "--out", tmp_path / "a") == 130
    assert calls == ["digits"]
