"""The examples and the code of the documentation run as they stand there."""

import re
from pathlib import Path

import numpy as np
import pytest

import nested_jax as nj

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_heatmap_from_a_loss_function(tmp_path):
    from examples import heatmap

    assert len(Path(heatmap.__file__).read_text().splitlines()) <= 50
    heatmap.main(steps=20, seeds=1, store="heatmap")
    assert (tmp_path / "heatmap.png").stat().st_size > 10_000
    again = nj.sweep(heatmap.run, nj.Grid(learning_rate=[2.0**-6], weight_decay=[0.01], seed=[0]))
    # 1,000 steps at a good rate: one in ten wrong would be the 64 hidden units not learning.
    assert float(again.error.squeeze()) < 0.1


def test_page_on_sweeps(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "sweeps.md").read_text(), re.S)
    names = {}
    exec(blocks[0], names)
    results = names["results"]
    assert results.sizes == {"learning_rate": 4, "levels": 4, "seed": 3}
    assert np.isfinite(results.loss).all()
    assert (tmp_path / "runs" / "manifest.json").exists()
