"""The code of the README, and of the page on theory that it leads to, runs as printed."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np

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


def test_telling_why_levels_diverge(x64):
    names = {}
    # For this test alone.
    code = blocks("docs/explanation/theory.md")[0]
    exec(code.replace('jax.config.update("jax_enable_x64", True)', ""), names)
    theory, tx = names["theory"], names["tx"]
    # What the text and the comments say.
    np.testing.assert_array_equal(names["growth"] > 0, np.arange(1, 20) > 5)
    assert f"{theory.mean_delay(tx):.0f}" == "114"
    assert theory.memory(tx, 0.99) == 254
    assert f"{theory.stability_limit(tx):.3f}" == "1.748"
    stable = nj.nested_momentum(0.01 * theory.stable_rate(tx, dim=10), levels=7)
    assert theory.mean_square_growth(tx, 10) > 0 > theory.mean_square_growth(stable, 10)
