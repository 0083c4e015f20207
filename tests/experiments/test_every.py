"""Tests of what all experiments do alike: options, folders, presets, refusals in one line."""

import dataclasses
import errno
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import nested_jax as nj
from experiments import __main__, lab
from experiments.lab import _folder
from experiments.lab import data as _data
from tests.experiments.support import run

ROOT = Path(__file__).parents[2]
EXPERIMENTS = __main__.EXPERIMENTS
LEARNING = [name for name, experiment in EXPERIMENTS.items() if experiment.learns]
PRESETS = [(name, flag) for name, one in EXPERIMENTS.items() for flag in one.presets]
every = pytest.mark.parametrize("name", EXPERIMENTS)


class ReachedError(Exception):
    """The runs would begin."""


def option(field):
    return "--" + field.replace("_", "-")


def seed_of(name):
    return "model_seed" if name == "levels" else "seed"


def refusal(capsys, *words):
    """Return the line that a command is refused with."""
    capsys.readouterr()
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: [^\n]+\n", error), error
    return error.removeprefix("error: ").rstrip()


@pytest.fixture
def reached(monkeypatch):
    """Return what ends every experiment where its runs would begin; it keeps their configs."""
    seen = {}

    def simulate(config, lab):
        seen["config"], seen["x64"] = config, jax.config.jax_enable_x64
        raise ReachedError

    for experiment in EXPERIMENTS.values():
        monkeypatch.setattr(experiment.runs, "simulate", simulate)
    return seen


def test_all_are_listed():
    folder = Path(lab.__file__).parents[1]
    packages = {path.parent.name for path in folder.glob("*/runs.py")}
    assert packages == {name.replace("-", "_") for name in EXPERIMENTS}
    assert set(WRONG) == set(EXPERIMENTS)


@every
def test_an_experiment_takes_its_folder_and_runs(name, tmp_path, reached):
    with pytest.raises(ReachedError):
        run(name, "--out", tmp_path / "a")
    config = dataclasses.replace(EXPERIMENTS[name].config(), out=tmp_path / "a")
    assert reached == {"config": config, "x64": EXPERIMENTS[name].x64}
    # It is that configuration's own, and may be run again.
    with pytest.raises(ReachedError):
        run(name, "--out", tmp_path / "a")


@every
def test_default_folder_is_below_the_working_directory(name):
    assert EXPERIMENTS[name].config().out == Path("results") / name


@pytest.mark.parametrize(("name", "flag"), PRESETS)
def test_a_preset_changes_what_was_left_at_its_default(
    name, flag, tmp_path, reached, monkeypatch, capsys
):
    experiment = EXPERIMENTS[name]
    digits = _data.load("digits")
    monkeypatch.setattr(_data, "load", lambda name, download: digits)
    if flag == "full":
        monkeypatch.setattr(experiment.runs, "estimate", lambda config, lab: 2 * 3600)
    for given in ({}, {"seeds": 77}):
        out = tmp_path / f"{len(given)}"
        words = [word for field, value in given.items() for word in (option(field), value)]
        with pytest.raises(ReachedError):
            run(name, f"--{flag}", *words, "--device", "cpu", "--out", out)
        expected = dataclasses.asdict(experiment.config()) | experiment.presets[flag] | given
        expected |= {flag: True, "device": "cpu", "out": out}
        assert dataclasses.asdict(reached["config"]) == expected
        said = (
            "Without a GPU, this takes about 2.0 hours on this machine." in capsys.readouterr().out
        )
        assert said == (flag == "full")


@pytest.mark.parametrize(
    "name", [name for name, one in EXPERIMENTS.items() if len(one.presets) > 1]
)
def test_quick_and_full_exclude_each_other(name, tmp_path, capsys):
    refused = refusal(capsys, name, "--quick", "--full", "--out", tmp_path / "a")
    assert refused == "`--quick` cannot be combined with `--full`."
    assert not (tmp_path / "a").exists()


WRONG = {
    "adafactor": [
        ("hidden", 0, "be an integer of at least 1, got 0."),
        ("batch_size", "all", "be an integer of at least 1, got 'all'."),
        ("steps", 150, "be a multiple of 100, got 150."),
        ("caps", 1, "be an integer of at least 2, got 1."),
        ("seeds", 1, "be an integer of at least 2, got 1."),
        ("seed", 2**32, f"be less than {2**32}, got {2**32}."),
    ],
    "adam": [
        ("silence", 0, "be an integer of at least 1, got 0."),
        ("dim", "many", "be an integer of at least 1, got 'many'."),
        ("seeds", 1, "be an integer of at least 2, got 1."),
        ("rates", 1, "be an integer of at least 2, got 1."),
        ("game_steps", 1500, "be a multiple of 1000, got 1500."),
        ("regret_steps", 2**31, f"be less than {2**31}, got {2**31}."),
        ("seed", -1, "be an integer of at least 0, got -1."),
    ],
    "adam-vs-sgd": [
        ("width", 0, "be an integer of at least 1, got 0."),
        ("depth", "two", "be an integer of at least 1, got 'two'."),
        ("examples", 1500, "be a multiple of 1000, got 1500."),
        ("examples", 2**31, f"be less than {2**31}, got {2**31}."),
        ("methods", "both", "be one of 'all', 'few', got 'both'."),
        ("batch_sizes", 4, "be less than 4, got 4."),
        ("folds", 1, "be an integer of at least 2, got 1."),
        ("folds", 2000, "be at most the 1438 training images, got 2000."),
        ("seeds", 1, "be an integer of at least 2, got 1."),
        ("tuning_seeds", 0, "be an integer of at least 1, got 0."),
        ("splits", 1, "be an integer of at least 2, got 1."),
        ("penalty", -1, "be non-negative and finite, got -1."),
        ("weight_decay", "nan", "be non-negative and finite, got nan."),
        ("levels", 1, "be an integer of at least 2, got 1."),
        ("rounds", 0, "be an integer of at least 1, got 0."),
        ("seed", 2**32, f"be less than {2**32}, got {2**32}."),
    ],
    "heatmaps": [
        ("width", 0, "be an integer of at least 1, got 0."),
        ("depth", -1, "be an integer of at least 0, got -1."),
        ("batch_size", "many", "be an integer of at least 1, got 'many'."),
        ("steps", 0.5, "be an integer of at least 1, got '0.5'."),
        ("seeds", 1, "be an integer of at least 2, got 1."),
        ("seed", -1, "be an integer of at least 0, got -1."),
        ("seed", 2**31, f"be less than {2**31 - 6}, got {2**31}."),
        ("activation", "gelu", "be one of 'relu', 'tanh', 'sigmoid', "),
        ("initialisation", "big", "be one of 'he', 'lecun', "),
    ],
    "levels": [
        ("model_levels", 0, "be an integer of at least 1, got 0."),
        ("data_levels", "two", "be an integer of at least 1, got 'two'."),
        ("dim", 2.5, "be an integer of at least 1, got '2.5'."),
        ("decay", 1, "lie in [0, 1), got 1."),
        ("decay", "nan", "lie in [0, 1), got nan."),
        ("learning_rate", -1, "be non-negative and finite, got -1."),
        ("learning_rate", "fast", "be non-negative and finite, got 'fast'."),
        ("steps", 0, "be an integer of at least 1, got 0."),
        ("steps", 2**31, f"be less than {2**31}, got {2**31}."),
        ("steps", 2**31 - 1, "leave the published stream in memory"),
        ("warmup", -1, "be an integer of at least 0, got -1."),
        ("warmup", 30_000, "be less than `--steps` = 30000, got 30000."),
        ("noise_std", "inf", "be non-negative and finite, got inf."),
        ("model_seed", -1, "be an integer of at least 0, got -1."),
        ("data_seed", 2**64, f"be less than {2**64}, got {2**64}."),
        ("stream", "rust", "be one of 'published', 'jax', got 'rust'."),
        ("seeds", 0, "be an integer of at least 1, got 0."),
    ],
    "momentum": [
        ("max_condition", 10, "be above 10, got 10.0."),
        ("max_condition", "inf", "be positive and finite, got inf."),
        ("max_condition", "big", "be positive and finite, got 'big'."),
        ("steps", 39_990, "be at least four times `--max-condition` = 10000, or"),
        ("conditions", 1, "be an integer of at least 2, got 1."),
        ("dim", 1, "be an integer of at least 2, got 1."),
        ("steps", 405, "be a multiple of 10, got 405."),
        ("steps", 2**31, f"be less than {2**31}, got {2**31}."),
        ("velocity_steps", 0, "be an integer of at least 1, got 0."),
        ("regression_steps", 40, "be a multiple of 50, got 40."),
        ("learning_rate", 0, "be positive and finite, got 0.0."),
        ("seeds", 1, "be an integer of at least 2, got 1."),
        ("decay", 1, "lie in [0, 1), got 1.0."),
        ("surface_steps", "all", "be an integer of at least 1, got 'all'."),
        ("learning_rates", 1, "be an integer of at least 2, got 1."),
        ("starts", 0, "be an integer of at least 1, got 0."),
        ("seed", -1, "be an integer of at least 0, got -1."),
        ("seed", 2**32, f"be less than {2**32}, got {2**32}."),
    ],
    "stability": [
        ("model_levels", 0, "be an integer of at least 1, got 0."),
        ("data_levels", "two", "be an integer of at least 1, got 'two'."),
        ("dim", 0, "be an integer of at least 1, got 0."),
        ("decay", 1, "lie in [0, 1), got 1."),
        ("learning_rate", 0, "be positive and finite, got 0."),
        ("steps", 401, "be a multiple of 20, got 401."),
        ("warmup", 30_000, "be less than `--steps` = 30000, got 30000."),
        ("noise_std", -1, "be non-negative and finite, got -1."),
        ("seeds", 3, "be an integer of at least 4, got 3."),
        ("tuning_seeds", 0, "be an integer of at least 1, got 0."),
        ("rates", 1, "be an integer of at least 2, got 1."),
        ("seed", -1, "be an integer of at least 0, got -1."),
    ],
    "tracking": [
        ("data_levels", 0, "be an integer of at least 1, got 0."),
        ("dim", "many", "be an integer of at least 1, got 'many'."),
        ("decay", 1, "lie in [0, 1), got 1.0."),
        ("noise_std", 0, "be positive and finite, got 0.0."),
        ("warmup", 8_000, "be less than `--steps` = 8000, got 8000."),
        ("trials", 3, "be an integer of at least 4, got 3."),
        ("rounds", 0, "be an integer of at least 1, got 0."),
        ("seeds", 1, "be an integer of at least 2, got 1."),
        ("seed", 2**32, f"be less than {2**32}, got {2**32}."),
    ],
}


@pytest.mark.parametrize(
    ("name", "field", "value", "rule"),
    [(name, *wrong) for name in EXPERIMENTS for wrong in WRONG[name]]
    + [
        (name, "device", "tpu", "be one of 'auto', 'cpu', 'gpu', got 'tpu'.")
        for name in EXPERIMENTS
    ]
    + [(name, "data", "digit", 'be "digits", "fashion-mnist" or a folder') for name in LEARNING],
)
def test_a_wrong_option_is_one_line(name, field, value, rule, tmp_path, capsys):
    refused = refusal(capsys, name, option(field), value, "--out", tmp_path / "a")
    assert refused.startswith(f"`{option(field)}` must {rule}")
    assert not (tmp_path / "a").exists()


NONSENSE = ("", "x", "-1", "0", "2", "nan", "inf", "-inf", "1e999", 2**31, 10**40)


@every
def test_nonsense_is_one_line_or_a_value(name, tmp_path, capsys, monkeypatch):
    def claim(folder, config):
        raise lab.UsageError("a value")

    monkeypatch.setattr(_folder, "claim", claim)
    monkeypatch.chdir(tmp_path)
    for field in dataclasses.fields(EXPERIMENTS[name].config):
        if isinstance(field.default, bool) or field.name == "out":
            continue
        refused = {x: refusal(capsys, name, option(field.name), x) for x in NONSENSE}
        assert refused["x"].startswith(f"`{option(field.name)}` must ")
        if isinstance(field.default, int):
            assert refused[10**40].startswith(f"`{option(field.name)}` must be less than ")


@every
def test_help_names_every_option(name, capsys):
    assert run(name, "--help") == 0
    text = capsys.readouterr().out
    for field in dataclasses.fields(EXPERIMENTS[name].config):
        assert option(field.name) in text


@pytest.mark.skipif(
    any(device.platform == "gpu" for device in jax.devices()), reason="there is a GPU"
)
@every
def test_no_gpu_is_one_line(name, tmp_path, capsys):
    refused = refusal(capsys, name, "--device", "gpu", "--out", tmp_path / "a")
    assert refused == "`--device` must name a device of this machine, got gpu."
    assert not (tmp_path / "a").exists()


def test_an_unknown_experiment_is_an_error(capsys):
    assert run("levles") == 2
    assert "levels" in capsys.readouterr().err


# The folder.


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


def test_output_that_cannot_be_written_is_one_line():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "experiments", "--help"]
        ended = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False
        )
    assert ended.returncode == 1
    assert ended.stderr == "error: the output cannot be written: No space left on device\n"


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
