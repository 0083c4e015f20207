"""Tests of heat maps: each cell shows its value, and each kind of cell its own colors."""

import itertools

import numpy as np
import pytest
import xarray as xr
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.colors import same_color
from matplotlib.figure import Figure

from nested_jax import plots
from tests.plots.support import RTOL, legend, sweep

GREY, WHITE = "0.6", "white"


def meshes(figure):
    return [c for c in figure.axes[0].collections if isinstance(c, QuadMesh)]


def drawn(mesh):
    """Return what a mesh holds, NaN where it draws nothing."""
    return np.ma.filled(mesh.get_array(), np.nan)


def bars(figure):
    return [ax.get_ylabel() for ax in figure.axes[0].child_axes]


def outlines(figure):
    """Return the segments of the edge of divergence, as a set of sorted point pairs."""
    found = [c for c in figure.axes[0].collections if isinstance(c, LineCollection)]
    found = [c for c in found if same_color(c.get_color()[0], "black")]
    return {tuple(sorted(map(tuple, path))) for c in found for path in c.get_segments()}


def test_heatmap_draws_the_logarithms_given():
    losses = sweep()
    figure = plots.heatmap(losses, title="Losses")
    (mesh,) = meshes(figure)
    np.testing.assert_allclose(drawn(mesh), np.log10(losses.to_numpy()), rtol=RTOL)
    # Row i lies at height i: model level 1 is at the bottom.
    np.testing.assert_array_equal(mesh.get_coordinates()[0, :, 0], [-0.5, 0.5, 1.5, 2.5])
    np.testing.assert_array_equal(mesh.get_coordinates()[:, 0, 1], [-0.5, 0.5, 1.5, 2.5, 3.5])
    ax = figure.axes[0]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("data level", "model level")
    assert ax.get_title() == "Losses"
    assert [text.get_text() for text in ax.get_yticklabels()] == ["1", "2", "3", "4"]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["1", "2", "3"]
    assert bars(figure) == ["log₁₀ mean loss"]
    assert legend(figure) == []
    assert mesh.get_cmap().name == "viridis"


def test_heatmap_of_transposed_losses_is_the_same():
    losses, cut = sweep(), 1.0
    once = plots.heatmap(losses, diverged=losses > cut)
    again = plots.heatmap(losses.T, diverged=(losses > cut).T)
    mixed = plots.heatmap(losses, diverged=(losses > cut).T)
    assert plots.to_svg(once) == plots.to_svg(again) == plots.to_svg(mixed)


def test_diverged_cells_have_a_scale_and_an_outline_of_their_own():
    losses = sweep()
    diverged = xr.zeros_like(losses, bool)
    diverged[1, 1] = diverged[3, 2] = True
    figure = plots.heatmap(losses, diverged=diverged, label="loss")
    converged_mesh, diverged_mesh = meshes(figure)
    logarithms = np.log10(losses)
    np.testing.assert_allclose(drawn(converged_mesh), logarithms.where(~diverged), rtol=RTOL)
    np.testing.assert_allclose(drawn(diverged_mesh), logarithms.where(diverged), rtol=RTOL)
    assert converged_mesh.get_cmap() != diverged_mesh.get_cmap()
    for mesh in (converged_mesh, diverged_mesh):
        assert mesh.get_clim() == (np.nanmin(drawn(mesh)), np.nanmax(drawn(mesh)))
    assert bars(figure) == ["converged\nlog₁₀ loss", "diverged\nlog₁₀ loss"]
    assert legend(figure) == ["edge of divergence"]
    # Cell (1, 1) has four sides; the corner (3, 2) two within the axes.
    assert outlines(figure) == {
        ((0.5, 0.5), (0.5, 1.5)),
        ((1.5, 0.5), (1.5, 1.5)),
        ((0.5, 0.5), (1.5, 0.5)),
        ((0.5, 1.5), (1.5, 1.5)),
        ((1.5, 2.5), (1.5, 3.5)),
        ((1.5, 2.5), (2.5, 2.5)),
    }


def test_losses_without_a_logarithm_are_told_apart():
    losses = sweep()
    losses[0, 0], losses[1, 2], losses[3, 1] = 0.0, np.inf, np.nan
    figure = plots.heatmap(losses)
    finite, not_finite, zero = meshes(figure)
    bad = np.array([[0, 0, 0], [0, 0, 1], [0, 0, 0], [0, 1, 0]], bool)
    np.testing.assert_array_equal(np.isfinite(drawn(not_finite)), bad)
    assert np.argwhere(np.isfinite(drawn(zero))).tolist() == [[0, 0]]
    bad[0, 0] = True
    np.testing.assert_array_equal(np.isfinite(drawn(finite)), ~bad)
    assert same_color(not_finite.cmap(0.5), GREY)
    assert same_color(zero.cmap(0.5), WHITE)
    assert legend(figure) == ["not finite (2)", "zero (1)"]
    (crosses,) = [c for c in figure.axes[0].collections if isinstance(c, LineCollection)]
    middles = {tuple(path.mean(axis=0)) for path in crosses.get_segments()}
    assert middles == {(2.0, 1.0), (1.0, 3.0)}


def test_a_diverged_cell_that_is_not_finite_is_grey_within_the_outline():
    losses = sweep()
    losses[3] = np.inf
    figure = plots.heatmap(losses, diverged=losses > 1e30)
    assert legend(figure) == ["not finite (3)", "edge of divergence"]
    assert outlines(figure) == {((j - 0.5, 1.5), (j + 0.5, 1.5)) for j in range(3)}


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1), (19, 19)])
@pytest.mark.parametrize("kind", ["finite", "all diverged", "none diverged", "not finite", "zero"])
def test_every_kind_of_sweep_can_be_drawn(shape, kind, tmp_path):
    losses, diverged = sweep(shape), None
    if "diverged" in kind:
        diverged = xr.full_like(losses, kind.startswith("all"), bool)
    losses = losses * {"not finite": np.nan, "zero": 0.0}.get(kind, 1.0)
    figure = plots.heatmap(losses, diverged=diverged, title=kind)
    (mesh,) = meshes(figure)
    assert np.isfinite(drawn(mesh)).all()
    low, high = mesh.get_clim()
    assert low < high
    assert outlines(figure) == set()
    assert "edge of divergence" not in legend(figure)
    plots.save(figure, tmp_path / "sweep.png", dpi=20.0)


def test_axes_may_be_any_two_and_are_labelled_from_attributes():
    rates, decays = np.geomspace(1e-4, 1, 9), np.geomspace(1e-6, 1e-1, 30)
    coords = {"learning_rate": rates, "weight_decay": decays}
    losses = xr.DataArray(np.ones((9, 30)), coords, ("learning_rate", "weight_decay"))
    losses["learning_rate"].attrs = {"long_name": "peak rate", "units": "1/step"}
    figure = plots.heatmap(losses, y="learning_rate", x="weight_decay")
    ax = figure.axes[0]
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("peak rate [1/step]", "weight decay")
    assert [text.get_text() for text in ax.get_yticklabels()][::4] == ["0.0001", "0.01", "1"]
    # Of 30 names every second is written, aslant.
    np.testing.assert_array_equal(ax.get_xticks(), np.arange(0, 30, 2))
    assert ax.get_xticklabels()[1].get_text() == f"{decays[2]:.4g}"
    assert {text.get_rotation() for text in ax.get_xticklabels()} == {45}
    assert {text.get_rotation() for text in ax.get_yticklabels()} == {0}


def test_no_text_is_clipped_or_overlaps_on_the_published_grid():
    losses = sweep((19, 19))
    losses[18, 3], losses[2, 2] = np.nan, 0
    figure = plots.heatmap(losses, diverged=losses > 1, title="A title")
    figure.draw_without_rendering()
    ax = figure.axes[0]
    names = ax.get_xticklabels(), ax.get_yticklabels()
    for axis in names:
        assert [text.get_text() for text in axis] == [str(i) for i in range(1, 20)]
        boxes = [text.get_window_extent() for text in axis]
        assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))
    legend_box, title_box = ax.get_legend().get_window_extent(), ax.title.get_window_extent()
    assert not legend_box.overlaps(title_box)
    assert legend_box.y0 >= ax.get_window_extent().y1
    inside = figure.bbox
    for box in [figure.get_tightbbox().transformed(figure.dpi_scale_trans), title_box]:
        assert inside.x0 <= box.x0 < box.x1 <= inside.x1
        assert inside.y0 <= box.y0 < box.y1 <= inside.y1


def test_losses_near_the_largest_float_can_be_drawn(tmp_path):
    losses = sweep() * 1e230
    plots.save(plots.heatmap(losses, diverged=losses > 1e250), tmp_path / "map.png", dpi=20.0)


def test_given_axes_are_drawn_in():
    figure = Figure()
    left, _ = figure.subplots(1, 2)
    assert plots.heatmap(sweep(), ax=left) is figure
    assert left.get_ylabel() == "model level"
    ax = figure.subfigures(2, 1)[0].subplots()
    assert plots.heatmap(sweep(), ax=ax) is figure


@pytest.mark.parametrize(
    ("losses", "rule"),
    [
        (sweep()[0], r"have the dimensions \('model_level', 'data_level'\), got \('data_level',\)"),
        (sweep().expand_dims("fold"), r"have the dimensions .*, got \('fold', 'model_level', "),
        (sweep()[:0], r"not be empty, got shape \(0, 3\)"),
        (-sweep((1, 1)) * 0 - 2, r"not be negative, got -2.0"),
    ],
)
def test_rejects_losses(losses, rule):
    with pytest.raises(ValueError, match=rf"^`losses` must {rule}"):
        plots.heatmap(losses)


def test_rejects_diverged():
    losses = sweep()
    for diverged, rule in [
        (losses, "be boolean, got float64"),
        (losses[0] > 1, r"have the dimensions .*, got \('data_level',\)"),
        (losses[1:] > 1, r"have the coordinates of `losses` along model_level, got \[2 3 4\]"),
    ]:
        with pytest.raises(ValueError, match=rf"^`diverged` must {rule}"):
            plots.heatmap(losses, diverged=diverged)


def test_rejects_an_array_without_names():
    message = r"^`losses` must be an xarray.DataArray, as `sweep` makes it, got a ndarray\.$"
    with pytest.raises(TypeError, match=message):
        plots.heatmap(np.ones((2, 2)))
