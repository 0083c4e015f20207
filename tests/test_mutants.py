"""Tests of `python -m tests.mutants` on a toy package; the library's own score is not tested."""

import ast

import pytest

from tests import mutants

# One of each kind. The note in the annotation and the words in the text stay.
SOURCE = '''"""Text."""
def f(x: "int | 1", y=-1.5, *, flag=True):
    """Return 1."""
    if not (x < 2) and flag:
        x += y // 3
    return g(zip(x, y, strict=True), x[0], asarray(x, dtype), f"{x + 1}", isinstance(x, int | str))
'''
EXPECTED = {
    'def f(x: "int | 1", y=1.5, *, flag=True):',
    'def f(x: "int | 1", y=-2.25, *, flag=True):',
    'def f(x: "int | 1", y=-1.5, *, flag=False):',
    "if not (not (x < 2) and flag):",
    "if False:",
    "if True:",
    "if not (x < 2) or flag:",
    "if (x < 2) and flag:",
    "if not (x <= 2) and flag:",
    "if not (x < 3) and flag:",
    "x -= y // 3",
    "x += y / 3",
    "x += y // 4",
}
OF_THE_CALL = {
    ("strict=True", "strict=False"),
    (", strict=True", ""),
    ("x[0]", "x[1]"),
    (", dtype", ""),
}


def test_mutants_of_each_kind():
    made = list(mutants.mutants("toy.py", SOURCE))
    for mutant in made:
        ast.parse(mutant.source)
    last = SOURCE.splitlines()[-1].strip()
    assert {m.lines[1] for m in made if m.lines[0] != last} == EXPECTED
    assert {last.replace(*pair) for pair in OF_THE_CALL} == {
        m.lines[1] for m in made if m.lines[0] == last
    }
    assert [m.of_default for m in made] == [m.number == 2 for m in made]


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Put a toy package in place of the library: of its two mutants, one survives."""
    (tmp_path / "nested_jax").mkdir()
    (tmp_path / "tests").mkdir()
    for name in ("pyproject.toml", "README.md"):
        (tmp_path / name).touch()
    (tmp_path / "nested_jax" / "__init__.py").touch()
    (tmp_path / "nested_jax" / "toy.py").write_text("def double(x):\n    return 2 * x\n")
    test = "from nested_jax.toy import double\n\ndef test_it():\n    assert double(1) == 2\n"
    (tmp_path / "tests" / "test_toy.py").write_text(test)
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    monkeypatch.setattr(mutants, "TESTS", {"toy.py": "test_toy"})
    monkeypatch.setattr(mutants, "EQUIVALENT", {})
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # Most of the time.
    return tmp_path


def test_a_survivor_is_shown_and_fails(toy, capsys):
    assert mutants.main([]) == 1
    shown = capsys.readouterr().out
    assert "survived: nested_jax/toy.py:2\n    -    return 2 * x\n    +    return 2 / x\n" in shown
    assert "return 3 * x" not in shown
    assert shown.split()[-10:-5] == ["2", "all", "1", "2", "50.0%"]
    assert (toy / "nested_jax" / "toy.py").read_text().endswith("return 2 * x\n")


def test_an_equivalent_mutant_does_not_count(toy, capsys, monkeypatch):
    equivalent = {("toy.py", "return 2 * x", "return 2 / x"): "as the test has it"}
    monkeypatch.setattr(mutants, "EQUIVALENT", equivalent)
    monkeypatch.setattr(mutants, "judged", lambda tested, *_: [True] * len(tested))
    assert mutants.main([]) == 0
    assert capsys.readouterr().out.endswith("100.0%\nleft out as equivalent: 1\n")


def test_tests_that_fail_without_a_mutation_kill_nothing(toy):
    (toy / "tests" / "test_toy.py").write_text("def test_it():\n    assert False\n")
    with pytest.raises(SystemExit, match=r"must pass without a mutation, got test_toy\."):
        mutants.main([])


def test_the_sample_is_that_of_its_seed(toy, monkeypatch):
    samples = []
    monkeypatch.setattr(mutants, "judged", lambda tested, *_: [samples.append(tested)])
    monkeypatch.setattr(mutants, "show", lambda *_: 0)
    lines = "".join(f"x{i} = {i} + 1\n" for i in range(50))
    (toy / "nested_jax" / "toy.py").write_text(lines)
    for seed in ("0", "0", "1"):
        mutants.main(["--count", "5", "--seed", seed])
    assert samples[0] == samples[1] != samples[2]
    assert len({mutant.source for mutant in samples[0]}) == 5


def test_the_tables_are_complete():
    root = mutants.ROOT / "nested_jax"
    folders = ("transforms", "schedules", "problems", "optimizers")
    files = {f"{folder}/{p.name}" for folder in folders for p in (root / folder).glob("*.py")}
    has_none = {file for file in files if not any(mutants.mutants(file, (root / file).read_text()))}
    assert (
        files - has_none | {"_rollout.py", "_core/cascade.py", "_core/states.py"}
        == mutants.TESTS.keys()
    )
    tests = {name for names in mutants.TESTS.values() for name in names.split() if name[0] != "["}
    assert [t for t in tests if not (mutants.ROOT / "tests" / f"{t}.py").exists()] == []
    known = {(m.file, *m.lines) for m in mutants.population()}
    assert mutants.EQUIVALENT.keys() <= known
