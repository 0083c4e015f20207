"""Tests of what all experiments do alike: the command line, options, presets, refusals."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from experiments import lab
from experiments.lab import _folder
from experiments.lab import data as _data
from tests.experiments.support import EXPERIMENTS, every, option, refusal, run, seed_of

ROOT = Path(__file__).parents[2]
LEARNING = [name for name, experiment in EXPERIMENTS.items() if experiment.learns]
PRESETS = [(name, flag) for name, one in EXPERIMENTS.items() for flag in one.presets]


class ReachedError(Exception):
    """The runs would begin."""


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
        ("seed", 2**31, f"be less than {2**31 - 5}, got {2**31}."),
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
        ("mitigation_steps", 0, "be an integer of at least 1, got 0."),
        ("mitigation_starts", 10, "be an integer of at least 12, got 10."),
        ("mitigation_starts", 13, "be a multiple of 2, got 13."),
        ("escape_steps", 0, "be an integer of at least 1, got 0."),
        ("escape_runs", 1, "be an integer of at least 2, got 1."),
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
    "timescales": [
        ("trials", 3, "be an integer of at least 4, got 3."),
        ("text", "missing", "name a file that can be read, got 'missing'."),
        ("quadratic_steps", 30, "be a multiple of 20, got 30."),
        ("text_steps", 12, "be a multiple of 5, got 12."),
        ("context", 129, "be less than 129, got 129."),
        ("seeds", 1, "be an integer of at least 2, got 1."),
        ("seed", 2**32, f"be less than {2**32}, got {2**32}."),
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["momentun"], "unknown experiment 'momentun'. Did you mean 'momentum'?"),
        (["adam-vs-sdg"], "unknown experiment 'adam-vs-sdg'. Did you mean 'adam-vs-sgd'?"),
        (["xyz"], f"unknown experiment 'xyz'. Choose one of {', '.join(EXPERIMENTS)}."),
        (["levels", "--model-level"], "unknown option '--model-level' of levels. Did you mean "),
        (["adam", "--quik=3"], "unknown option '--quik' of adam. Did you mean '--quick'?"),
        (["levels", "--zzz"], "unknown option '--zzz' of levels. Choose one of --help, "),
    ],
)
def test_an_unknown_word_is_one_line_with_the_nearest_known_one(words, message, capsys):
    assert refusal(capsys, *words).startswith(message)


@every
def test_options_are_known_in_all_their_spellings(name, tmp_path, reached):
    given = [f"--{seed_of(name)}=7", "--out", tmp_path / "a"]
    flags = [f"--no-{flag}" for flag in EXPERIMENTS[name].presets]
    with pytest.raises(ReachedError):
        run(name.replace("-", "_"), *given, *flags)
    assert getattr(reached["config"], seed_of(name)) == 7


def test_no_word_lists_the_experiments_in_reading_order(capsys):
    assert run() == 0
    listed = capsys.readouterr().out
    assert re.findall(r"^([a-z-]+) +[A-Z]", listed, re.MULTILINE) == [*EXPERIMENTS]
    for experiment in EXPERIMENTS.values():
        assert f"{experiment.question}\n" in listed
        assert f"Takes {experiment.duration}.\n" in listed


def test_output_that_cannot_be_written_is_one_line():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "experiments", "--help"]
        ended = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False
        )
    assert ended.returncode == 1
    assert ended.stderr == "error: the output cannot be written: No space left on device\n"
