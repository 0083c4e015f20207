"""Tests of the store of a sweep: what is kept, what is refused, what is never read."""

import hashlib
import io
import json
import os
import re
import resource
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import nested_jax as nj
from nested_jax.sweeps.engine import _store
from nested_jax.sweeps.engine._fingerprint import digest, fingerprint_of
from nested_jax.sweeps.engine._job import Job
from nested_jax.sweeps.engine._local import LocalDevices
from nested_jax.sweeps.engine._store import MANIFEST, ORIGIN, Store

# As long as wide, so that there are as many chunks whichever axis is cut.
GRID = nj.Grid(word=["a", "bc"], rate=[0.1, 0.2, 0.3], seed=range(3))
CHUNKS = 6  # Of three runs each.


def run(word, rate, seed):
    noise = jax.random.normal(jax.random.key(seed), (3,))
    return {"loss": jnp.sum(jnp.sin(rate * noise)) * len(word), "noise": noise * rate}


def sweep(store=None, run=run, grid=GRID, **options):
    return nj.sweep(run, grid, **({"chunk": 3, "store": store} | options))


def chunks(store):
    return sorted(store.glob("chunk-*"))


def contents(store):
    return {path.name: path.read_bytes() for path in store.iterdir()}


@pytest.fixture
def computed(monkeypatch):
    """Return a list to which every chunk that is computed adds its index."""
    indices = []
    evaluate = LocalDevices.evaluate

    def listen(self, job, missing):
        missing = [*missing]
        indices.extend(missing)
        return evaluate(self, job, missing)

    monkeypatch.setattr(LocalDevices, "evaluate", listen)
    return indices


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
    rule = "`store` must be of this grid, got .* with chunks of "
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
        ({"grid": GRID.sub(seed=[1, 0, 2])}, "grid"),
        ({"grid": nj.Grid(word=["bc", "a"], rate=[0.1, 0.2, 0.3], seed=range(3))}, "grid"),
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
        r"they differ in (.*): pass (?:the default chunk or )?another folder\.",
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


# --- Damage ---


def cut(content):
    return content[: len(content) // 2]


def flip(content):
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize("damage", [cut, flip, lambda content: b"", lambda content: b"0" * 99])
def test_a_damaged_chunk_is_computed_again(tmp_path, computed, damage):
    first = sweep(tmp_path)
    before = contents(tmp_path)
    path = chunks(tmp_path)[3]
    path.write_bytes(damage(path.read_bytes()))
    computed.clear()
    assert sweep(tmp_path).equals(first)
    assert computed == [3]
    assert contents(tmp_path) == before


def test_a_damaged_chunk_is_not_read_if_it_cannot_be_removed(tmp_path, computed, monkeypatch):
    first = sweep(tmp_path)
    path = chunks(tmp_path)[0]
    path.write_bytes(cut(path.read_bytes()))
    # A whole file of the same chunk beside it is found.
    whole = path.with_name(f"chunk-00000000-{'f' * 32}.npz")
    path.rename(whole)

    def refuse(self, missing_ok=False):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(_store.Path, "unlink", refuse)
    computed.clear()
    for expected in ([0], [0]):
        assert sweep(tmp_path).equals(first)
        assert computed == expected
    assert len(chunks(tmp_path)) == CHUNKS + 1


def test_a_chunk_that_cannot_be_read_is_not_removed(tmp_path, computed, monkeypatch):
    first = sweep(tmp_path)
    before = contents(tmp_path)
    read = _store.Path.read_bytes

    def fail(self):
        if self.name.startswith("chunk-00000002"):
            raise OSError(5, "Input/output error")
        return read(self)

    monkeypatch.setattr(_store.Path, "read_bytes", fail)
    computed.clear()
    assert sweep(tmp_path).equals(first)
    assert computed == [2]
    monkeypatch.undo()
    assert contents(tmp_path) == before


def stored_as(path, content):
    """Write what a chunk's file would hold, with the checksum in its name."""
    checksum = hashlib.sha256(content).hexdigest()[:32]
    path = path.with_name(f"{path.name[:14]}-{checksum}.npz")
    path.write_bytes(content)


def test_a_chunk_of_another_store_is_not_read(tmp_path, computed):
    # The same shapes, but other values, other arguments or another program.
    grid = nj.Grid(word=["a", "bc"], rate=[0.4, 0.5, 0.6], seed=range(3))
    others = [{"grid": grid}, {"run": lambda word, rate, seed: {**run(word, rate, 2 * seed)}}]
    first = sweep(tmp_path / "ours")
    for i, other in enumerate(others):
        sweep(tmp_path / f"{i}", **other)
        for path in chunks(tmp_path / "ours"):
            path.unlink()
        for path in chunks(tmp_path / f"{i}"):
            (tmp_path / "ours" / path.name).write_bytes(path.read_bytes())
        computed.clear()
        assert sweep(tmp_path / "ours").equals(first)
        assert computed == [*range(CHUNKS)]


def test_chunks_that_changed_places_are_not_read(tmp_path, computed):
    first = sweep(tmp_path)
    two = chunks(tmp_path)[1:3]
    contents = [path.read_bytes() for path in two]
    for path, content in zip(two, contents[::-1], strict=True):
        path.unlink()
        stored_as(path, content)
    computed.clear()
    assert sweep(tmp_path).equals(first)
    assert computed == [1, 2]
    # The right ones are beside them now.
    computed.clear()
    assert sweep(tmp_path).equals(first)
    assert not computed


def test_a_new_store_is_claimed_by_a_link(tmp_path, monkeypatch):
    """Replacing would take the store from a process that was first."""

    def refuse(self, target):
        raise PermissionError(f"{self} replaces {target}")

    monkeypatch.setattr(_store.Path, "replace", refuse)
    store = Store(tmp_path / "new")
    store.claim({"function": "one"})
    assert store.recorded() == {"function": "one"}


def test_what_is_no_chunk_is_not_read_whatever_its_checksum(tmp_path, computed):
    first = sweep(tmp_path)
    path = chunks(tmp_path)[0]
    whole = path.read_bytes()
    path.unlink()
    with np.load(io.BytesIO(whole)) as file:
        parts = dict(file)
    loss, noise = (name for name in parts if name != ORIGIN)
    odd = [
        {**parts, "name": np.zeros(1)},
        {**parts, "0|int99|x": np.zeros(1)},
        {**parts, "2|float32|more": np.zeros(3, np.float32)},
        # Of the right program and points, but what would be broadcast, cut, cast or left out.
        {**parts, loss: parts[loss][:1]},
        {**parts, loss: parts[loss][0, 0]},
        {**parts, noise: np.append(parts[noise], parts[noise], axis=1)},
        {**parts, loss.replace("32", "64"): parts[loss].astype(np.float64)},
        *({n: values for n, values in parts.items() if n != name} for name in parts),
    ]
    for arrays in odd:
        content = io.BytesIO()
        np.savez(content, **arrays)
        stored_as(path, content.getvalue())
    # Flag 1 of an entry in the directory of a zip file says that it is encrypted.
    at = whole.index(b"PK\x01\x02") + 8
    for content in (b"", b"odd", whole[:50], whole[:at] + b"\x01" + whole[at + 1 :]):
        stored_as(path, content)
    path.with_name(f"{path.name[:14]}-{'1' * 32}.npz").symlink_to("nowhere")
    path.with_name(f"{path.name[:14]}-{'2' * 32}.npz").mkdir()
    os.mkfifo(path.with_name(f"{path.name[:14]}-{'0' * 32}.npz"))
    computed.clear()
    assert sweep(tmp_path).equals(first)
    assert computed == [0]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_manifest_that_is_no_file_is_refused(tmp_path, make):
    make(tmp_path / MANIFEST)
    with pytest.raises(ValueError, match=r"^`store` must have a manifest that can be read, got"):
        sweep(tmp_path)


def test_a_manifest_or_chunk_that_the_system_refuses_is_named(tmp_path):
    sweep(tmp_path)
    path = chunks(tmp_path)[2]
    path.unlink()
    path.mkdir()
    message = f"`store`: cannot write {path}: Is a directory"
    with pytest.raises(IsADirectoryError, match=re.escape(message)):
        sweep(tmp_path)
    manifest = tmp_path / MANIFEST
    manifest.unlink()
    manifest.symlink_to(manifest)
    message = f"`store`: cannot read {manifest}: Too many levels of symbolic links"
    with pytest.raises(OSError, match=re.escape(message)):
        sweep(tmp_path)


def test_a_store_is_the_name_of_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    sweep("~/store")
    assert len(chunks(tmp_path / "store")) == CHUNKS
    with pytest.raises(TypeError, match=r"^`store` must be the name of a folder, got 3\.$"):
        sweep(3)
    with pytest.raises(ValueError, match=r"^`store` must be the name of a folder, got ''\.$"):
        sweep("")
    with pytest.raises(ValueError, match=r"^`store` must be below a known home, got '~n0body/x'"):
        sweep("~n0body/x")


def test_files_of_others_in_a_store_are_left_alone(tmp_path):
    first = sweep(tmp_path)
    for name in ("notes.txt", "chunk-x-y.npz", f"chunk-99999999-{'0' * 32}.npz", ".hidden.txt"):
        (tmp_path / name).write_text("mine")
    before = contents(tmp_path)
    assert sweep(tmp_path).equals(first)
    assert contents(tmp_path) == before


# --- What cannot be written ---


@pytest.fixture
def broken(monkeypatch):
    """Return a function that makes a call of the system fail for chunks, from the second on."""

    def break_(owner, name, error):
        calls = []
        real = getattr(owner, name)

        def fail(*args, **kwargs):
            calls.append(args)
            if len(calls) > 5:
                raise error
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, fail)

    return break_


@pytest.mark.parametrize(
    ("owner", "call", "error", "message"),
    [
        (os, "fsync", OSError(28, "No space left on device"), "No space left on device"),
        (_store.Path, "open", OSError(30, "Read-only file system"), "Read-only file system"),
        (os, "replace", PermissionError(13, "Permission denied"), "Permission denied"),
    ],
)
def test_what_cannot_be_written_is_told_and_leaves_nothing_half(
    tmp_path, broken, monkeypatch, owner, call, error, message
):
    expected = sweep()
    broken(owner, call, error)
    explained = rf"`store`: cannot write {re.escape(str(tmp_path))}/chunk-\S+: {message}"
    with pytest.raises(type(error), match=explained) as caught:
        sweep(tmp_path)
    assert caught.value.errno == error.errno
    monkeypatch.undo()
    assert not list(tmp_path.glob(".*"))
    stored = len(chunks(tmp_path))
    assert 0 < stored < CHUNKS
    for path in chunks(tmp_path):
        assert hashlib.sha256(path.read_bytes()).hexdigest()[:32] in path.name
    assert sweep(tmp_path).equals(expected)


def test_a_limit_that_the_system_sets_is_told(tmp_path):
    def wide(rate):
        return {"x": jnp.full(20000, rate)}

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
    try:
        with pytest.raises(OSError, match=r"`store`: cannot write .*/chunk-.*: File too large"):
            nj.sweep(wide, nj.Grid(rate=[1.0, 2.0]), store=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST]


@pytest.fixture
def read_only(monkeypatch):
    """Return a function that makes the file system refuse to be written."""

    def refuse(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    def open_(path, mode="r", *args, **kwargs):
        return open_file(path, mode, *args, **kwargs) if "r" in mode else refuse()

    def begin():
        for name in ("mkdir", "unlink"):
            monkeypatch.setattr(_store.Path, name, refuse)
        monkeypatch.setattr(_store.Path, "open", open_)

    open_file = _store.Path.open
    return begin


@pytest.mark.parametrize("exists", [True, False])
def test_a_store_that_cannot_be_made_is_told_before_anything_runs(
    tmp_path, read_only, computed, exists
):
    store = tmp_path / "store"
    if exists:
        store.mkdir()
    read_only()
    explained = f"`store`: cannot make {store}: Read-only file system"
    with pytest.raises(OSError, match=re.escape(explained)):
        sweep(store)
    assert not computed


def test_a_complete_store_may_be_read_only(tmp_path, read_only, computed):
    first = sweep(tmp_path)
    (tmp_path / f".{MANIFEST}.{'0' * 32}").write_text("")
    os.utime(tmp_path / f".{MANIFEST}.{'0' * 32}", (0, 0))
    read_only()
    computed.clear()
    assert sweep(tmp_path).equals(first)
    assert not computed


def test_what_killed_processes_left_is_removed(tmp_path):
    first = sweep(tmp_path)
    name = chunks(tmp_path)[0].name
    # A process of another machine, whose clock and numbers are its own, may still write the young.
    old, young, theirs = (tmp_path / f".{x}" for x in (f"{name}.0", f"{name}.1", "notes.0"))
    for path in (old, young, theirs):
        path.write_bytes(b"half")
    for path in (old, theirs):
        os.utime(path, (0, 0))
    assert sweep(tmp_path).equals(first)
    assert [path.exists() for path in (old, young, theirs)] == [False, True, True]


# --- Long axes ---


def test_a_long_axis_is_described_by_its_hash(tmp_path):
    grids = {
        "ours": nj.Grid(rate=range(2000)),
        "same": nj.Grid(rate=np.arange(2000, dtype=np.uint16)),
        "float": nj.Grid(rate=np.arange(2000.0)),
        "order": nj.Grid(rate=[1, 0, *range(2, 2000)]),
        "longer": nj.Grid(rate=range(2001)),
        "large": nj.Grid(rate=np.arange(2000, dtype=np.uint64) + np.uint64(2**63)),
    }
    expected = hashlib.sha256(b"<i8" + np.arange(2000, dtype="<i8").tobytes()).hexdigest()
    assert grids["ours"].describe() == [["rate", {"rate": {"values": 2000, "sha256": expected}}]]
    equal = [name for name, grid in grids.items() if grid == grids["ours"]]
    assert equal == ["ours", "same"]
    assert len({json.dumps(grid.describe()) for grid in grids.values()}) == 5

    def double(rate):
        return {"x": 2 * rate}

    nj.sweep(double, grids["ours"], store=tmp_path)
    assert (tmp_path / MANIFEST).stat().st_size < 2000
    with pytest.raises(ValueError, match="they differ in grid: pass another folder"):
        nj.sweep(double, grids["order"], store=tmp_path)
    for path in chunks(tmp_path):
        with np.load(path) as file:
            text, values = file[ORIGIN].tobytes().split(b"\n", 1)
        columns = json.loads(text)["columns"]
        assert columns == [{"rate": ["<i4", len(values) // 4]}]


# --- Several writers ---


def fingerprint(grid):
    return fingerprint_of(Job(Partial(SCALED), grid, (3, 3)), "cpu")


def test_of_two_processes_that_begin_at_once_the_first_decides(tmp_path, monkeypatch):
    ours = fingerprint(GRID)
    theirs = fingerprint(GRID.sub(word=["a"]))
    Store(tmp_path).claim(ours)
    before = contents(tmp_path)
    answers = []
    recorded = Store.recorded
    monkeypatch.setattr(
        Store, "recorded", lambda self: answers.pop() if answers else recorded(self)
    )
    answers.append(None)  # The manifest came after this one looked.
    with pytest.raises(ValueError, match="they differ in grid, programs"):
        Store(tmp_path).claim(theirs)
    assert contents(tmp_path) == before
    answers.append(None)
    Store(tmp_path).claim(ours)
    assert contents(tmp_path) == before


def test_a_store_that_another_process_begins_meanwhile_is_a_store(tmp_path, monkeypatch):
    ours = fingerprint(GRID)
    listed = _store.Path.is_dir

    def is_dir(self):
        monkeypatch.undo()
        Store(tmp_path).claim(ours)
        return listed(self)

    monkeypatch.setattr(_store.Path, "is_dir", is_dir)
    assert Store(tmp_path).recorded() == ours


def test_a_file_system_without_links_will_do(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    first = sweep(tmp_path)
    assert sweep(tmp_path).equals(first)


def test_threads_may_share_a_store(tmp_path):
    def work(at):
        found[at] = sweep(tmp_path)

    found, expected = {}, sweep()
    threads = [threading.Thread(target=work, args=(at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[at].equals(expected) for at in range(4)] == [True] * 4
    assert len(chunks(tmp_path)) == CHUNKS
    assert not list(tmp_path.glob(".*"))


PROCESS = """
import hashlib, pathlib, sys, time
import jax, jax.numpy as jnp, numpy as np
import nested_jax as nj

def run(word, rate, seed):
    noise = jax.random.normal(jax.random.key(seed), (3,))
    return {"x": jnp.where(rate > 0, noise, 0).sum() * len(word), "y": jax.nn.relu(noise)}

store, busy, ready = pathlib.Path(sys.argv[1]), sys.argv[2] == "busy", pathlib.Path(sys.argv[3])
grid = nj.Grid(word=["a", "bc"], rate=np.linspace(0.1, 0.2, 15), seed=range(3))
if busy:
    # Whatever else the process did must not show in what the program is called.
    jax.nn.relu(jnp.ones(3)), jax.jit(lambda x: jnp.where(x, 1, 2))(jnp.ones(3, bool))
    nj.sweep(lambda rate: {"x": jax.nn.relu(rate)}, nj.Grid(rate=[1.0]))
    nj.sweep(run, nj.Grid(word=["abc"], rate=[0.5], seed=[7]))
ready.joinpath(sys.argv[2]).touch()
while len(list(ready.iterdir())) < 2:
    time.sleep(0.005)
results = nj.sweep(run, grid, chunk=3, store=store)
print(results.attrs["configuration"], hashlib.sha256(results.x.values.tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_processes_may_share_a_store(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(PROCESS)
    store, ready = tmp_path / "store", tmp_path / "ready"
    ready.mkdir()
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(store), what, str(ready)],
            env=os.environ | {"PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for what, seed in (("busy", "1"), ("idle", "2"))
    ]
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    # The same configuration, whatever came before, and the same bits.
    assert said[0] == said[1]
    assert len(said[0].split()) == 2
    assert len(chunks(store)) == 30
    assert not list(store.glob(".*"))
    for path in chunks(store):
        assert hashlib.sha256(path.read_bytes()).hexdigest()[:32] in path.name
