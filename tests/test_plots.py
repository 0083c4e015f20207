"""Tests of the figures: what is drawn is what was given, and each kind of cell is told apart."""

import itertools
import os
import re
import subprocess
import sys
import xml.etree.ElementTree

import numpy as np
import PIL.Image
import pytest
import xarray as xr
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.colors import same_color
from matplotlib.figure import Figure

from nested_jax import plots

RTOL = 1e-12  # One logarithm, a mean and a median of float64: a few roundings.
GREY, WHITE = "0.6", "white"


def sweep(shape=(4, 3)):
    """Return losses from 0.01 to 1e77, growing along model_level."""
    rng = np.random.default_rng(0)
    exponents = np.linspace(-2, 77, shape[0])[:, None] + rng.uniform(0, 0.5, shape)
    dims, coords = ["model_level", "data_level"], [np.arange(1, n + 1) for n in shape]
    return xr.DataArray(10**exponents, list(zip(dims, coords, strict=True)))


def meshes(figure):
    return [c for c in figure.axes[0].collections if isinstance(c, QuadMesh)]


def drawn(mesh):
    """Return what a mesh holds, NaN where it draws nothing."""
    return np.ma.filled(mesh.get_array(), np.nan)


def legend(figure):
    box = figure.axes[0].get_legend()
    return [text.get_text() for text in box.get_texts()] if box else []


def bars(figure):
    return [ax.get_ylabel() for ax in figure.axes[0].child_axes]


def outlines(figure):
    """Return the segments of the edge of divergence, as a set of sorted point pairs."""
    found = [c for c in figure.axes[0].collections if isinstance(c, LineCollection)]
    found = [c for c in found if same_color(c.get_color()[0], "black")]
    return {tuple(sorted(map(tuple, path))) for c in found for path in c.get_segments()}


# The heat map.


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


# Files, and what stays untouched.


def test_given_axes_are_drawn_in():
    figure = Figure()
    left, _ = figure.subplots(1, 2)
    assert plots.heatmap(sweep(), ax=left) is figure
    assert left.get_ylabel() == "model level"
    ax = figure.subfigures(2, 1)[0].subplots()
    assert plots.heatmap(sweep(), ax=ax) is figure


def test_pyplot_is_not_imported_and_settings_stay(tmp_path):
    program = """
import sys
import matplotlib
before = matplotlib.rcParams.copy()
import numpy as np, xarray as xr
from nested_jax import plots
losses = xr.DataArray(np.ones((2, 2)), dims=("model_level", "data_level"))
plots.to_svg(plots.heatmap(losses, diverged=losses > 0))
plots.save(plots.heatmap(losses), sys.argv[1])
assert "matplotlib.pyplot" not in sys.modules
assert matplotlib.rcParams.copy() == before
"""
    command = [sys.executable, "-c", program, str(tmp_path / "a.png")]
    outcome = subprocess.run(command, check=False, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr


@pytest.mark.parametrize("name", ["a.png", "b.PNG"])
def test_png_opens_with_the_size_asked_for(tmp_path, name):
    plots.save(plots.heatmap(sweep()), tmp_path / name, dpi=50.0)
    with PIL.Image.open(tmp_path / name) as image:
        assert (image.format, image.size) == ("PNG", (300, 250))
    assert os.listdir(tmp_path) == [name]


def test_svg_file_is_the_same_every_time(tmp_path):
    for name in ("a.svg", "b.svg"):
        plots.save(plots.heatmap(sweep()), str(tmp_path / name))
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert xml.etree.ElementTree.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def fail(self, file, **options):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        plots.save(Figure(), path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.png"]


def test_the_file_appears_under_its_name_only_when_whole(tmp_path, monkeypatch):
    path, seen = tmp_path / "a.png", []
    savefig = Figure.savefig

    def spy(self, file, **options):
        savefig(self, file, **options)
        seen.append(path.exists())

    monkeypatch.setattr(Figure, "savefig", spy)
    plots.save(plots.heatmap(sweep()), path, dpi=20.0)
    assert seen == [False]
    # The old file is replaced, not written into: who has it open reads on.
    with path.open("rb") as reader:
        plots.save(plots.heatmap(sweep()), path, dpi=40.0)
        with PIL.Image.open(reader) as old, PIL.Image.open(path) as new:
            assert (old.size, new.size) == ((120, 100), (240, 200))


def test_inline_svgs_of_one_page_do_not_clash():
    first = plots.heatmap(sweep(), title='id="axes_1" & <b>')
    figures = [first, plots.heatmap(2 * sweep()), plots.heatmap(sweep((9, 9)))]
    ids = []
    for figure in figures:
        svg = plots.to_svg(figure)
        assert svg.startswith("<svg")
        root = xml.etree.ElementTree.fromstring(svg)
        own = [element.get("id") for element in root.iter() if element.get("id")]
        assert len(own) > 10
        ids += own
        used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg))
        assert used
        assert {a or b for a, b in used} <= set(own)
        texts = ["".join(element.itertext()) for element in root.iter() if "text" in element.tag]
        assert "model level" in texts
        assert not re.search(r'(src|href)="http', svg)
    assert len(ids) == len(set(ids))
    root = xml.etree.ElementTree.fromstring(plots.to_svg(first))
    assert 'id="axes_1" & <b>' in "".join(root.itertext())


def test_inline_svg_is_the_same_every_time():
    assert plots.to_svg(plots.heatmap(sweep())) == plots.to_svg(plots.heatmap(sweep()))


# Errors.


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


@pytest.mark.parametrize("name", ["a.pdf", "a", "png"])
def test_rejects_a_suffix(tmp_path, name):
    with pytest.raises(ValueError, match=r"^`path` must end in .png or .svg, got '.*'"):
        plots.save(Figure(), tmp_path / name)
    assert not os.listdir(tmp_path)


def test_rejects_an_array_without_names():
    message = r"^`losses` must be an xarray.DataArray, as `sweep` makes it, got a ndarray\.$"
    with pytest.raises(TypeError, match=message):
        plots.heatmap(np.ones((2, 2)))


def test_rejects_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^`path` must be in a folder that exists, got"):
        plots.save(Figure(), tmp_path / "none" / "a.png")


# Hyperparameters of a sweep.


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
