"""Tests of lines and intervals: those on logarithmic axes are geometric."""

import numpy as np
import pytest
import scipy.stats

from experiments.lab import figures

RUNS = np.exp(np.random.default_rng(0).normal(size=(5, 3)))
RTOL = 1e-12  # Both sides are float64, and five logarithms are averaged.


def oracle(runs):
    """Return mean and ends of SciPy's t interval."""
    mean = runs.mean(0)
    sem = scipy.stats.sem(runs, axis=0)
    return mean, *scipy.stats.t.interval(0.95, len(runs) - 1, mean, sem)


def test_geometric_interval_is_that_of_the_logarithms():
    expected = [np.exp(part) for part in oracle(np.log(RUNS))]
    np.testing.assert_allclose(figures.geometric_interval(RUNS), expected, rtol=RTOL)
    # In other units it is the same interval.
    scaled = figures.geometric_interval(1e6 * RUNS)
    np.testing.assert_allclose(scaled, 1e6 * np.array(expected), rtol=RTOL)
    assert np.isnan(figures.geometric_interval([1.0, -1.0])).all()


@pytest.mark.parametrize("ylog", [True, False])
def test_the_axis_decides_how_a_line_is_averaged(ylog):
    _, ((ax,),) = figures.panels(1)
    figures.label(ax, "x", "y", ylog=ylog)
    figures.line(ax, [1, 2, 3], RUNS, 0, "runs")
    kind = (np.log, np.exp) if ylog else (np.positive, np.positive)
    mean, low, high = (kind[1](part) for part in oracle(kind[0](RUNS)))
    np.testing.assert_allclose(ax.lines[0].get_ydata(), mean, rtol=RTOL)
    drawn = ax.collections[0].get_paths()[0].vertices[:, 1]
    for edge in (*low, *high):
        assert np.isclose(drawn, edge, rtol=RTOL).any()


@pytest.mark.parametrize(
    ("ends", "labels"),
    [
        ((1e-11, 1e13), ["10⁻¹¹", "10¹³"]),
        ((1.6, 2.2), ["1.6", "2.2"]),
        ((1.6e5, 2.2e5), ["1.6×10⁵", "2.2×10⁵"]),
    ],
)
def test_powers_of_ten_are_text(ends, labels):
    _, ((ax,),) = figures.panels(1)
    ax.plot([1, 2], ends)
    figures.label(ax, "x", "y")
    ax.get_yticklabels(which="both")  # So that its formatters know the range.
    decades = ends[1] > 10 * ends[0]
    formatter = ax.yaxis.get_major_formatter() if decades else ax.yaxis.get_minor_formatter()
    assert [formatter(end) for end in ends] == labels


@pytest.mark.parametrize(
    ("ratios", "text"),
    [
        ([2.0, 2.0, 2.0], "2 [2, 2] times more"),
        ([0.25, 0.25, 0.25], "4 [4, 4] times less"),
        ([1.0, 1.0, 1.0], "no difference larger than a factor of 1"),
        # t(1) = 12.7062 times the standard error log 2 of the logarithms: exp(8.807).
        ([0.5, 2.0], "no difference larger than a factor of 6.7e+03"),
        ([2.0, np.nan], "a difference that diverged runs leave open"),
        ([2.0, np.inf], "a difference that diverged runs leave open"),
    ],
)
def test_verdicts(ratios, text):
    assert figures.verdict(ratios, "{} times more", "{} times less") == text
