"""Tests of runs drawn by their hyperparameters, as lines and as panels."""

import numpy as np
import pytest
import xarray as xr
from matplotlib.collections import LineCollection

from nested_jax import plots
from tests.plots.support import RTOL, legend


def searched():
    """Return a sweep of two words, three zipped points and two seeds, with losses of 1 to 12."""
    losses = np.arange(1.0, 13.0).reshape(2, 3, 2)
    coords = {
        "kind": ["b", "a"],
        "point": [0, 1, 2],
        "seed": [0, 1],
        "rate": ("point", [0.1, 0.4, 0.1]),
        "decay": ("point", [3, 1, 2]),
    }
    dims = ("kind", "point", "seed")
    curve = ((*dims, "curve_0"), np.ones((2, 3, 2, 4)))
    axes = {"axes": [*dims]}
    return xr.Dataset({"loss": (dims, losses), "curve": curve}, coords, axes)


def lines(figure):
    """Return the heights of all lines of parallel coordinates, the grey ones first."""
    found = [c for c in figure.axes[0].collections if isinstance(c, LineCollection)]
    # The last collection is the axes.
    return [np.array(path)[:, 1] for c in found[:-1] for path in c.get_segments()]


def test_parallel_coordinates_draw_each_run_as_a_line():
    figure = plots.parallel_coordinates(searched(), "loss", over="seed", title="A search")
    names = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert names == ["kind", "rate", "decay", "log₁₀ loss"]
    # Words in their order, numbers from the smallest; the mean of two seeds; the best is last.
    means = [11.5, 9.5, 7.5, 5.5, 3.5, 1.5]
    scaled = (np.log10(means) - np.log10(1.5)) / (np.log10(11.5) - np.log10(1.5))
    kind = [0.75] * 3 + [0.25] * 3
    rate, decay = [0.25, 0.75, 0.25] * 2, [0.5, 1 / 6, 5 / 6] * 2
    expected = np.stack([kind, rate, decay, scaled], 1)
    np.testing.assert_allclose(lines(figure), expected, rtol=RTOL, atol=RTOL)
    colours = [c for c in figure.axes[0].collections if c.get_array() is not None]
    np.testing.assert_allclose(colours[0].get_array(), np.log10(means), rtol=RTOL)
    assert figure.axes[0].get_title() == "A search"


def test_hyperparameters_join_the_best_runs():
    figure = plots.hyperparameters(searched(), "loss")
    assert [ax.get_xlabel() for ax in figure.axes] == ["kind", "rate", "decay", "seed"]
    best = {"kind": [1, 7], "rate": [1, 3], "decay": [3, 5, 1], "seed": [1, 2]}
    for ax, values in zip(figure.axes, best.values(), strict=True):
        dots, line = ax.get_lines()
        assert len(dots.get_xdata()) == 12
        np.testing.assert_array_equal(line.get_xdata(), np.arange(len(values)))
        np.testing.assert_allclose(line.get_ydata(), np.log10(values), rtol=RTOL)
    ticks = [[t.get_text() for t in ax.get_xticklabels()] for ax in figure.axes]
    assert ticks == [["b", "a"], ["0.1", "0.4"], ["1", "2", "3"], ["0", "1"]]


def test_runs_that_are_not_finite_or_zero_are_counted():
    results = searched()
    results.loss[0, 0, 0], results.loss[1, 1, 1], results.loss[1, 0, 0] = np.nan, np.inf, 0
    figure = plots.parallel_coordinates(results, "loss")
    assert legend(figure) == ["not finite (2)", "zero (1)"]
    ends = [line[-1] for line in lines(figure)]
    np.testing.assert_allclose(ends[:3], [1.06, 1.06, -0.06], rtol=RTOL)
    assert all(0 <= end <= 1 for end in ends[3:])
    panels = plots.hyperparameters(results, "loss")
    assert len(panels.axes[0].get_lines()[0].get_xdata()) == 9
    assert [t.get_text() for t in panels.legends[0].get_texts()] == legend(figure)
    # A mean over one of them is not finite.
    assert legend(plots.parallel_coordinates(results, "loss", over=["seed"])) == ["not finite (2)"]


@pytest.mark.parametrize("draw", [plots.parallel_coordinates, plots.hyperparameters])
def test_a_search_of_any_kind_can_be_drawn(draw, tmp_path):
    for value in (1.0, np.nan, 0.0):  # No line, or none with a colour.
        results = searched().assign(loss=searched().loss * 0 + value)
        plots.save(draw(results, "loss"), tmp_path / "search.png", dpi=20.0)
    for change, error, rule in [
        ({"by": "cost"}, ValueError, r"`by` must be one of \['loss', 'curve'\], got 'cost'"),
        ({"by": "curve"}, ValueError, r"`by` must be a number a run, got dimensions"),
        ({"over": "fold"}, ValueError, r"`over` must be axes of .*, got 'fold'"),
        ({"results": searched().loss}, TypeError, r"`results` must be a dataset, .*, got a DataA"),
    ]:
        with pytest.raises(error, match=rf"^{rule}"):
            draw(**{"results": searched(), "by": "loss"} | change)


def test_an_axis_must_be_left_to_draw():
    results = searched()
    with pytest.raises(ValueError, match="`over` must leave an axis"):
        plots.hyperparameters(results, "loss", over=[*results.loss.dims])
