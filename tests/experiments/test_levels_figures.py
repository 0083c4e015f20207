"""Tests of the figure of the level sweep."""

import numpy as np
import pytest
import scipy.stats
import xarray as xr

from experiments.levels import figures
from nested_jax import plots

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
