"""The examples run as they stand there."""

from pathlib import Path

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
