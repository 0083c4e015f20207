"""Tests of the folder of every experiment: what is refused in one line, and what is left alone."""

import errno

import pytest

import nested_jax as nj
from experiments import lab
from tests.experiments.support import EXPERIMENTS, every, option, refusal, run, seed_of


@every
def test_a_folder_that_cannot_be_written_is_one_line(name, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        refused = refusal(capsys, name, "--out", out)
        assert refused.startswith(f"`--out` must be a folder to write in, got {out} (")

    def fsync(file):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("os.fsync", fsync)
    refused = refusal(capsys, name, "--out", tmp_path / "a")
    rule = "`--out` must be a folder to write in"
    assert refused == f"{rule}, got {tmp_path / 'a'} (Read-only file system)."


@every
def test_a_disk_that_is_full_in_the_end_is_one_line(name, tmp_path, capsys, monkeypatch):
    def simulate(config, lab):
        raise OSError(errno.ENOSPC, "No space left on device", str(config.out / "results.nc"))

    monkeypatch.setattr(EXPERIMENTS[name].runs, "simulate", simulate)
    assert "(No space left on device)" in refusal(capsys, name, "--out", tmp_path / "a")


@every
@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("thesis.tex", b""),
        ("config.json", b'{"config": {"seed": 0, "devi'),
        ("config.json", b'{"config": 5}'),
        ("config.json", b"[]"),
        ("config.json", b"\xff\x00"),
    ],
)
def test_a_folder_of_unknown_origin_is_one_line(name, file, content, tmp_path, capsys):
    (tmp_path / file).write_bytes(content)
    refused = refusal(capsys, name, "--out", tmp_path)
    rule = "`--out` must be a new folder or one of the same configuration"
    assert refused == f"{rule}, got {tmp_path} with files of unknown origin."
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(file, content)]


@every
def test_a_folder_of_another_configuration_is_one_line(name, tmp_path, capsys):
    seed = option(seed_of(name))
    config = EXPERIMENTS[name].config()
    first = getattr(config, seed_of(name))
    lab.claim(tmp_path, config)
    stored = (tmp_path / "config.json").read_bytes()
    refused = refusal(capsys, name, seed, 7, "--out", tmp_path)
    assert refused.endswith(f"got {tmp_path} with results of {seed} {first} and not 7.")
    assert (tmp_path / "config.json").read_bytes() == stored


def older(store):
    """Leave what an older version of the program stored."""
    nj.sweep(lambda x: {"y": 2 * x}, nj.Grid(x=[1.0, 2.0]), store=store, progress=False)


def cut_off(store):
    older(store)
    manifest = store / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:40])


def foreign(store):
    store.mkdir(parents=True)
    (store / "thesis.tex").write_text("")


def a_file(store):
    store.parent.mkdir(parents=True)
    store.write_text("")


@every
@pytest.mark.parametrize(
    ("leave", "found"),
    [
        (older, "`store` must be of this configuration"),
        (cut_off, "`store` must have a manifest that can be read, got {store}/manifest.json."),
        (foreign, "`store` must be a new folder or a store, got {store} with other files."),
        (a_file, "`store` must be a folder, got {store}."),
    ],
)
def test_a_store_of_something_else_is_one_line(name, leave, found, tmp_path, capsys, monkeypatch):
    out = tmp_path / "a"
    lab.claim(out, EXPERIMENTS[name].config())
    leave(out / "store" / "part")
    kept = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def simulate(config, lab):
        grid = nj.Grid(x=[1.0, 2.0])
        nj.sweep(lambda x: {"y": 3 * x}, grid, store=out / "store" / "part", progress=False)

    monkeypatch.setattr(EXPERIMENTS[name].runs, "simulate", simulate)
    refused = refusal(capsys, name, "--out", out)
    found = found.format(store=out / "store" / "part")
    assert refused.startswith(f"`--out` must be a new folder, or as it was left: {found}")
    again = f"To run all of it again, pass another or remove {out / 'store'}."
    assert refused.endswith(again)
    assert all(path.read_bytes() == content for path, content in kept.items())


@every
def test_errors_of_the_program_are_no_refusals(name, tmp_path, monkeypatch):
    for error in (ValueError("`learning_rate` must be"), OSError(errno.ENOENT, "No", "elsewhere")):

        def simulate(config, lab, error=error):
            raise error

        monkeypatch.setattr(EXPERIMENTS[name].runs, "simulate", simulate)
        with pytest.raises(type(error)):
            run(name, "--out", tmp_path / "a")


@every
def test_an_interrupt_is_one_line(name, tmp_path, capsys, monkeypatch):
    def simulate(config, lab):
        raise KeyboardInterrupt

    monkeypatch.setattr(EXPERIMENTS[name].runs, "simulate", simulate)
    assert run(name, "--out", tmp_path / "a") == 130
    assert capsys.readouterr().err == "interrupted\n"
