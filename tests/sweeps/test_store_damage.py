"""Tests of a store whose files are damaged, foreign or cannot be written."""

import hashlib
import io
import os
import re
import resource

import jax.numpy as jnp
import numpy as np
import pytest

import nested_jax as nj
from nested_jax.sweeps.engine import _store
from nested_jax.sweeps.engine._store import MANIFEST, ORIGIN, Store
from tests.sweeps.stored import CHUNKS, chunks, contents, run, sweep

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
    """Return a function that makes a call of the system fail from the sixth on; reading works."""

    def break_(owner, name, error):
        calls = []
        real = getattr(owner, name)

        def fail(*args, **kwargs):
            if name != "open" or "wb" in args:
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
