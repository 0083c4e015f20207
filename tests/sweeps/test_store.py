"""Tests of the store of a sweep: what is kept and what is refused."""

import hashlib
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import nested_jax as nj
from nested_jax.sweeps.engine._fingerprint import digest
from nested_jax.sweeps.engine._store import MANIFEST, ORIGIN
from tests.sweeps.stored import CHUNKS, GRID, chunks, contents, sweep

# --- What is kept ---


def test_a_store_holds_a_manifest_and_a_file_a_chunk(tmp_path):
    store = tmp_path / "deep" / "store"
    assert nj.sweeps.stored_chunks(store, GRID) == (0, 0)
    results = sweep(store)
    assert results.equals(sweep())
    assert nj.sweeps.stored_chunks(store, GRID) == (CHUNKS, CHUNKS)
    names = sorted(path.name for path in store.iterdir())
    assert names[-1] == MANIFEST
    assert [name[:14] for name in names[:-1]] == [f"chunk-{i:08d}" for i in range(CHUNKS)]
    for path in chunks(store):
        checksum = hashlib.sha256(path.read_bytes()).hexdigest()
        assert path.name == f"{path.name[:14]}-{checksum[:32]}.npz"
    path.unlink()
    assert nj.sweeps.stored_chunks(store, GRID) == (CHUNKS - 1, CHUNKS)
    rule = "`store` must be of this grid or of a part of it, got "
    with pytest.raises(ValueError, match=rule):
        nj.sweeps.stored_chunks(store, nj.Grid(x=[1.0]))
    with pytest.raises(TypeError, match=r"`grid` must be a nested_jax.Grid, got a dict\."):
        nj.sweeps.stored_chunks(store, {})
    manifest = json.loads((store / MANIFEST).read_text())
    assert manifest["hash"] == digest(manifest["fingerprint"]) == results.attrs["configuration"]
    assert {"programs", "arguments", "grid", "chunk", "jax", "nested_jax"} <= {
        *manifest["fingerprint"]
    }


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("missing", [[0], [5], [1, 2, 4], [0, 1, 2, 3, 4, 5], []])
def test_only_what_is_missing_is_computed_and_the_bits_are_the_same(
    tmp_path, computed, missing, devices
):
    first = sweep(tmp_path, devices=jax.devices()[:1])
    before = contents(tmp_path)
    paths = chunks(tmp_path)
    for index in missing:
        paths[index].unlink()
    computed.clear()
    # The store keeps the chunk that it was made with.
    again = sweep(tmp_path, chunk="auto", devices=jax.devices()[:devices])
    assert computed == missing
    assert again.equals(first)
    assert contents(tmp_path) == before


def test_a_store_of_a_string_and_of_random_keys(tmp_path, computed):
    bound = Partial(lambda key, rate: {"x": jax.random.normal(key) * rate}, jax.random.key(3))
    grid = nj.Grid(rate=[1.0, 2.0])
    first = nj.sweep(bound, grid, store=str(tmp_path / "store"))
    computed.clear()
    assert nj.sweep(bound, grid, store=str(tmp_path / "store")).equals(first)
    assert not computed


def test_every_kind_of_result_comes_back(tmp_path, computed, x64):
    def make(rate):
        return {
            "half": jnp.asarray([rate, 1 / 3, jnp.nan], jnp.bfloat16),
            "bfloat16": rate.astype(jnp.bfloat16),
            "float8": rate.astype(jnp.float8_e4m3fn),
            "float16": rate.astype(jnp.float16),
            "double": rate / 3,
            "int8": jnp.int8(-3),
            "uint64": jnp.uint64(2**64 - 1),
            "flag": rate > 1.5,
            "flags": jnp.arange(3) > rate,
            "complex": rate + 2j,
            "empty": jnp.zeros((2, 0, 3)),
            "matrix": jnp.arange(6.0).reshape(2, 3).T * rate,
            "odd|name of.npy ∂": rate,
        }

    grid = nj.Grid(rate=[-jnp.inf, 1.0, 2.0])
    first = nj.sweep(make, grid, chunk=2, store=tmp_path)
    computed.clear()
    again = nj.sweep(make, grid, store=tmp_path)
    assert not computed
    assert {name: first[name].dtype for name in first} == {
        name: again[name].dtype for name in again
    }
    for name in first:
        assert first[name].values.tobytes() == again[name].values.tobytes()
    with np.load(chunks(tmp_path)[1]) as file:
        stored = {key.split("|", 1)[1]: file[key].shape for key in file if key != ORIGIN}
    assert stored["bfloat16|half"] == (2, 3)
    assert stored["float8_e4m3fn|float8"] == (2,)
    assert stored["float64|empty"] == (2, 2, 0, 3)
    assert first.uint64.values[0] == 2**64 - 1


def test_a_grid_without_numbers_has_chunks_of_one_run(tmp_path, computed):
    grid = nj.Grid(word=["a", "bc", "def"])

    def measure(word):
        return {"x": len(word), "y": jnp.bfloat16(len(word) / 3)}

    first = nj.sweep(measure, grid, store=tmp_path)
    assert computed == [0, 1, 2]
    chunks(tmp_path)[1].unlink()
    assert nj.sweep(measure, grid, store=tmp_path).equals(first)
    assert computed == [0, 1, 2, 1]
    np.testing.assert_array_equal(first.x, [1, 2, 3])


# --- What is refused ---

SOURCE = """
import jax.numpy as jnp
def run(word, rate, seed):
    return {"x": rate * SCALE + seed * len(word)}
"""


def function(source, **names):
    """Return the function `run` that a text defines, as if in a file of its own."""
    scope = dict(names)
    exec(compile(source, "<a file>", "exec"), scope)
    return scope["run"]


def bound(rate, seed, word, *, data):
    return {"x": (data * rate).sum() + seed * len(word)}


SCALED = function(SOURCE, SCALE=2.0)


@pytest.mark.parametrize(
    ("change", "differ"),  # At least in that.
    [
        ({"run": function(SOURCE.replace("+", "-"), SCALE=2.0)}, "programs"),
        # A constant that it closes over.
        ({"run": function(SOURCE, SCALE=2.5)}, "programs"),
        ({"grid": GRID.sub(seed=[0, 1])}, "grid"),
        ({"grid": nj.Grid(word=["a", "bc"], rate=[0.1, 0.2, 0.4], seed=range(3))}, "grid"),
        ({"grid": nj.Grid(word=["a", "xy"], rate=[0.1, 0.2, 0.3], seed=range(3))}, "grid"),
        ({"grid": nj.Grid(rate=[0.1, 0.2, 0.3], seed=range(3), word=["a", "bc"])}, "grid"),
        ({"chunk": 2}, "chunk"),
    ],
)
def test_a_store_of_another_configuration_is_refused(tmp_path, computed, change, differ):
    results = sweep(tmp_path, SCALED)
    before, count = contents(tmp_path), len(computed)
    theirs = results.attrs["configuration"][:16]
    with pytest.raises(ValueError, match=r"^`store` must be of this") as caught:
        sweep(tmp_path, **({"run": SCALED} | change))
    found = re.fullmatch(
        r"`store` must be of this configuration \(([0-9a-f]{16})\), got (.*) of ([0-9a-f]{16}); "
        r"they differ in (.*): pass (?:the default chunk or |a grid that has its points or )?"
        r"another folder\.",
        str(caught.value),
    )
    ours, folder, other, differences = found.groups()
    assert (folder, other) == (str(tmp_path), theirs)
    assert differ in differences.split(", ")
    assert ours != theirs
    assert contents(tmp_path) == before
    assert len(computed) == count
    # What is refused is what a store of its own would be called.
    there = sweep(tmp_path / "other", **({"run": SCALED} | change))
    assert there.attrs["configuration"][:16] == ours


def test_a_store_with_other_bound_arrays_is_refused(tmp_path):
    data = np.arange(3, dtype=np.float32)
    sweep(tmp_path, Partial(bound, data=data))
    for other in (data + 1, data.astype(np.float16), data[:2], data[:, None]):
        with pytest.raises(ValueError, match="they differ in arguments"):
            sweep(tmp_path, Partial(bound, data=other))
    assert sweep(tmp_path, Partial(bound, data=jnp.asarray(data))).equals(
        sweep(run=Partial(bound, data=data))
    )
    keyed = Partial(lambda key, rate: {"x": jax.random.normal(key) * rate}, jax.random.key(0))
    nj.sweep(keyed, nj.Grid(rate=[1.0]), store=tmp_path / "keyed")
    with pytest.raises(ValueError, match="they differ in arguments"):
        nj.sweep(
            Partial(keyed.func, jax.random.key(1)), nj.Grid(rate=[1.0]), store=tmp_path / "keyed"
        )


@pytest.mark.parametrize("size", [3, 3000])
@pytest.mark.parametrize("make", [np.full, jnp.full])
def test_a_store_with_other_arrays_closed_over_is_refused(tmp_path, make, size):
    def closed(value):
        data = make(size, value)
        return lambda rate: {"x": rate * jnp.asarray(data).sum()}

    grid = nj.Grid(rate=[1.0])
    nj.sweep(closed(1.0), grid, store=tmp_path)
    nj.sweep(closed(1.0), grid, store=tmp_path)
    with pytest.raises(ValueError, match="they differ in programs"):
        nj.sweep(closed(1.5), grid, store=tmp_path)


def scaled_in_a_batch(factor):
    """Return a run that is the same alone, and whose rule for batches has a factor."""
    function = jax.custom_batching.custom_vmap(jnp.sin)
    function.def_vmap(lambda size, batched, x: (factor * jnp.sin(x), True))
    return lambda x: {"y": function(x)}


def on_the_host(method):
    def share(x):
        return np.asarray(x / np.max(x), np.float32)

    shape = jax.ShapeDtypeStruct((), np.float32)
    return lambda x: {"y": jax.pure_callback(share, shape, x, vmap_method=method)}


@pytest.mark.parametrize(
    ("make", "one", "other"),
    [(scaled_in_a_batch, 1, 2), (on_the_host, "sequential", "broadcast_all")],
)
def test_a_store_of_another_rule_for_batches_is_refused(tmp_path, make, one, other):
    options = {"grid": nj.Grid(x=[1.0, 2.0, 3.0, 4.0]), "chunk": 2}
    first = nj.sweep(make(one), store=tmp_path, **options)
    assert nj.sweep(make(one), store=tmp_path, **options).equals(first)
    assert not nj.sweep(make(other), **options).equals(first)
    with pytest.raises(ValueError, match="they differ in programs"):
        nj.sweep(make(other), store=tmp_path, **options)


def test_static_values_whose_words_run_together_are_kept_apart(tmp_path):
    def of(factor):
        return lambda a, b, x: {"y": x * factor if (a, b) == ("x", "y, b=y") else x}

    grid = nj.Grid(a=["x", "x, b=y"], b=["y", "y, b=y"], x=[1.0, 2.0])
    nj.sweep(of(2), grid, store=tmp_path)
    with pytest.raises(ValueError, match="they differ in programs"):
        nj.sweep(of(3), grid, store=tmp_path)


def test_zeros_of_another_sign_are_another_grid(tmp_path):
    run = lambda x: {"y": 1 / x}  # noqa: E731
    nj.sweep(run, nj.Grid(x=[0.0]), store=tmp_path)
    with pytest.raises(ValueError, match="they differ in grid"):
        nj.sweep(run, nj.Grid(x=[-0.0]), store=tmp_path)


def test_a_store_of_another_layout_is_refused(tmp_path):
    def run(x):
        return {"loss": jnp.sin(x)}

    grid = nj.Grid(x=[1.0, 2.0])
    nj.sweep(run, grid, store=tmp_path, layout="vmap")
    with pytest.raises(ValueError, match="they differ in programs"):
        nj.sweep(run, grid, store=tmp_path, layout="lanes")
    nj.sweep(run, grid, store=tmp_path, layout="vmap")


def test_a_stored_sweep_traces_a_function_once(tmp_path):
    calls = []

    def run(x):
        calls.append(x)
        return {"loss": jnp.sin(x)}

    # For all checks, the fingerprint and the program of the devices together.
    nj.sweep(run, nj.Grid(x=[1.0, 2.0]), store=tmp_path, devices=jax.devices()[:2])
    assert len(calls) == 1


def test_a_store_of_other_precision_or_versions_is_refused(tmp_path, monkeypatch):
    sweep(tmp_path, SCALED)
    with jax.enable_x64(True), pytest.raises(ValueError, match="they differ in programs, x64"):
        sweep(tmp_path, SCALED)
    monkeypatch.setattr(jax, "__version__", "0.0")
    with pytest.raises(ValueError, match=r"they differ in jax: pass another folder\.$"):
        sweep(tmp_path, SCALED)


def test_what_a_function_reads_may_not_change_in_a_session_either(tmp_path):
    read = {"rate": 1.0}

    def run(x):
        return {"loss": read["rate"] * x}

    grid = nj.Grid(x=[1.0, 2.0])
    assert nj.sweep(run, grid, store=tmp_path / "store").loss.values.tolist() == [1.0, 2.0]
    read["rate"] = 5.0
    with pytest.raises(ValueError, match="they differ in programs"):
        nj.sweep(run, grid, store=tmp_path / "store")
    assert nj.sweep(run, grid, store=tmp_path / "other").loss.values.tolist() == [5.0, 10.0]


def test_a_comment_or_another_name_keeps_a_store_valid(tmp_path, computed):
    sweep(tmp_path, SCALED)
    computed.clear()
    commented = SOURCE.replace("    return", "    # Why.\n    total = rate\n    return")
    sweep(tmp_path, function("# Moved.\n\n\n" + commented, SCALE=2.0))
    assert not computed


@pytest.mark.parametrize(
    "manifest",
    [
        *("", "{", "[]", "3", "{}", '{"fingerprint": null}', '{"fingerprint": [1]}', "\xff"),
        *("[" * 200_000, '{"fingerprint": {"chunk": [0, -1]}}', '{"fingerprint": {"chunk": 3}}'),
        *('{"fingerprint": {"chunk": ["a", null]}}', '{"fingerprint": {"chunk": [1.5, 1]}}'),
        *('{"fingerprint": {"grid": 3}}', '{"fingerprint": {"grid": [["x", [1.0]]]}}'),
    ],
)
def test_a_broken_manifest_is_refused(tmp_path, manifest):
    sweep(tmp_path)
    (tmp_path / MANIFEST).write_text(manifest, encoding="latin-1")
    before = contents(tmp_path)
    message = f"`store` must have a manifest that can be read, got {tmp_path / MANIFEST}."
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        sweep(tmp_path)
    assert contents(tmp_path) == before


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    message = f"`store` must be a new folder or a store, got {tmp_path} with other files."
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        sweep(tmp_path)
    assert contents(tmp_path) == {"thesis.tex": b"mine"}
    # A store whose manifest was lost could be of anything.
    sweep(tmp_path / "store")
    (tmp_path / "store" / MANIFEST).unlink()
    with pytest.raises(ValueError, match="must be a new folder or a store"):
        sweep(tmp_path / "store")


def test_a_file_is_no_store(tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(ValueError, match="^" + re.escape(f"`store` must be a folder, got {path}.")):
        sweep(path)


def test_an_empty_folder_becomes_a_store(tmp_path):
    (tmp_path / ".DS_Store").write_text("")
    assert sweep(tmp_path).equals(sweep())
