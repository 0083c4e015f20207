"""Tests of figures as files and as SVG for pages: their bytes, and what stays untouched."""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree

import PIL.Image
import pytest
from matplotlib.figure import Figure

from nested_jax import plots
from tests.plots.support import sweep


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


@pytest.mark.parametrize("name", ["a.pdf", "a", "png"])
def test_rejects_a_suffix(tmp_path, name):
    with pytest.raises(ValueError, match=r"^`path` must end in .png or .svg, got '.*'"):
        plots.save(Figure(), tmp_path / name)
    assert not os.listdir(tmp_path)


def test_rejects_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^`path` must be in a folder that exists, got"):
        plots.save(Figure(), tmp_path / "none" / "a.png")
