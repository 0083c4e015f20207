"""The code of the README runs as printed, and shows what the text says."""

import re
from pathlib import Path

import jax.numpy as jnp

import nested_jax as nj

ROOT = Path(__file__).parents[1]


def blocks(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def test_heatmap(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(blocks("README.md")[0], names)
    results = names["results"]
    assert results.sizes == {"learning_rate": 5, "levels": 8}
    assert results.loss.dtype == jnp.float32
    # What the text says of the figure: the fewer levels, the larger the stable rate.
    stable = (~names["diverged"]).sum("learning_rate").values
    assert (stable[:-1] >= stable[1:]).all()
    assert stable[0] == 5
    assert (tmp_path / "losses.png").stat().st_size > 10_000


def test_checking_a_transform_of_ones_own():
    def my_transform(decay):
        return nj.scale_by_accumulated_momentum(decay)

    exec(blocks("README.md")[1], {"my_transform": my_transform})
