"""Tests of what the laboratory does for every experiment: the report and the rules of options."""

import dataclasses
from typing import Annotated

import pytest
from matplotlib.figure import Figure

import nested_jax as nj
from experiments import lab
from experiments.lab import _options, _report
from tests.experiments import support

QUESTION = "Is 1 < 2 & [adam] <b>better</b>?"
TABLE = lab.Table(
    "Losses <of> [adam]",
    ("C(rule)[T.adam]", "<b>&x"),
    [("one [red]", lab.Diverged("1e77")), ("two", "-.-")],
    notes=("Marked [bold]: diverged.",),
    screen=True,
)


def figure():
    drawn = Figure()
    drawn.subplots().set_title("[a] <b>")
    return drawn


def sections():
    first = lab.Section(
        title="Unused",
        answer="Yes: *1* < 2 [dim].",
        body="One **word**, a [link](other.html), <script>alert(1)</script>",
        figures={"first": (figure(), "A <caption>")},
        tables=[TABLE],
        files={"numbers.csv": "x\n1\n"},
    )
    second = lab.Section(
        title="Why & how?", answer="For <reasons>.", tables=[TABLE._replace(screen=False)]
    )
    return [first, second]


def made(**config):
    return {
        "config": {"steps": 3, "device": "auto", "quick": False, **config},
        "versions": {"jax": "1.2"},
        "device": "cpu: <x>",
        "machine": "m",
        "python": "3",
        "commit": None,
    }


def page(folder, **config):
    _report.write(folder, "levels", QUESTION, made(**config), ["results"], sections())
    return (folder / "report.html").read_text()


def shown(capsys, **config):
    _report.show(QUESTION, made(**config), sections())
    return capsys.readouterr().out


def test_a_page_stands_alone_and_has_its_files_beside_it(tmp_path):
    text = page(tmp_path)
    assert support.is_self_contained(text)
    assert text.count("<svg") == 1
    assert (tmp_path / "numbers.csv").read_text() == "x\n1\n"
    assert (tmp_path / "figures" / "first.png").stat().st_size > 1000
    for file in ("results.nc", "numbers.csv", "config.json"):
        assert f'<a href="{file}">' in text
    assert "python -m experiments levels --steps 3 --device auto</pre>" in text


def test_a_page_is_escaped(tmp_path):
    text = support.text_of(page(tmp_path))
    assert "Is 1 &lt; 2 &amp; [adam] &lt;b&gt;better&lt;/b&gt;?" in text
    assert '<th scope="col">C(rule)[T.adam]</th><th scope="col">&lt;b&gt;&amp;x</th>' in text
    assert "A &lt;caption&gt;" in text
    assert "Losses &lt;of&gt; [adam]" in text
    assert "cpu: &lt;x&gt;" in text
    assert "Yes: *1* &lt; 2 [dim]." in text
    assert not any(tag in text for tag in ("<b>", "<of>", "<script", "<reasons>"))


def test_the_body_is_markdown_without_html(tmp_path):
    text = page(tmp_path)
    assert "<strong>word</strong>" in text
    assert '<a href="other.html">link</a>' in text
    assert "&lt;script&gt;" in text


def test_the_first_section_answers_the_question(tmp_path, capsys):
    text = support.text_of(page(tmp_path))
    assert "Unused" not in text
    assert text.index("<h1>") < text.index("Yes: *1*") < text.index("<h2>Why &amp; how?</h2>")
    printed = shown(capsys)
    assert (
        printed.index(QUESTION) < printed.index("Yes: *1* < 2 [dim].") < printed.index("Why & how?")
    )
    assert "Unused" not in printed


def test_a_diverged_cell_is_marked(tmp_path, capsys):
    assert '<td class="diverged">1e77</td>' in page(tmp_path)
    assert "<td>-.-</td>" in page(tmp_path)
    assert "1e77*" in shown(capsys)


def test_the_terminal_keeps_brackets_and_shows_what_is_for_the_screen(capsys):
    printed = shown(capsys)
    for text in ("Losses <of> [adam]", "C(rule)[T.adam]", "<b>&x", "one [red]", "Marked [bold]"):
        assert printed.count(text) == 1


def test_a_wide_table_is_not_cut(capsys):
    wide = TABLE._replace(header=["x" * 9] * 30, rows=[["123456789"] * 30])
    _report.show(QUESTION, made(), [sections()[0]._replace(tables=[wide])])
    printed = capsys.readouterr().out
    assert printed.count("123456789") == 30
    assert "…" not in printed


def test_a_smoke_test_says_so_and_answers_nothing(tmp_path, capsys):
    text, printed = page(tmp_path, quick=True), shown(capsys, quick=True)
    for said in (text, " ".join(printed.split())):
        assert "This is a smoke test (--quick)" in said
        assert "Yes:" not in said
        assert "reasons" not in said
    assert "1e77*" in printed
    assert "--device auto --quick</pre>" in text
    assert "smoke test" not in page(tmp_path) + shown(capsys)


# Progress and times.


def parts_of(folder, *wanted):
    """Run `wanted`, pairs of a part and a piece, in an experiment of three parts."""
    place = lab.Lab(folder, None, ("one", "two_words", "three"))
    for part, piece in wanted:
        if piece is None:
            place.begin(part)
        else:
            grid = nj.Grid(x=[1.0, 2.0])
            place.sweep(part, lambda x: {"y": x}, grid, piece=piece, chunk=1, progress=False)
    place.end()
    return place.seconds


def test_a_part_says_what_was_read_from_the_store(tmp_path, capsys):
    first = [("one", ""), ("two_words", "a"), ("three", None)]
    seconds = parts_of(tmp_path, *first)
    lines = ["part 1 of 3: one", "part 2 of 3: two words", "part 3 of 3: three"]
    assert capsys.readouterr().out.splitlines() == lines
    # All parts have times, those without a sweep their wall time.
    assert {part: [*times] for part, times in seconds.items()} == {
        "one": ["wall_seconds", "compile_seconds", "run_seconds"],
        "two_words": ["wall_seconds", "compile_seconds", "run_seconds"],
        "three": ["wall_seconds"],
    }
    for times in seconds.values():
        wall = times.pop("wall_seconds")
        assert wall >= sum(times.values()) > 0 or not times
    # A sweep of which a chunk is missing, a second piece, and a part that computes again.
    next((tmp_path / "store" / "one").glob("chunk-*")).unlink()
    parts_of(tmp_path, ("one", ""), ("two_words", "a"), ("two_words", "b"), ("three", None))
    partly = [f"{line} (partly from the store)" for line in lines[:2]]
    assert capsys.readouterr().out.splitlines() == [*partly, lines[2]]
    again = parts_of(tmp_path, ("one", ""), ("two_words", "a"), ("two_words", "b"))
    assert {times["origin"] for times in again.values()} == {"from the store"}
    whole = [f"{line} (from the store)" for line in lines[:2]]
    assert capsys.readouterr().out.splitlines() == whole


# Rules of options.


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of each kind."""

    steps: Annotated[int, lab.count(2, multiple=2, below=10)] = 4
    seeds: lab.Several = 2
    rate: lab.Positive = 0.1
    noise: lab.NonNegative = 0
    decay: lab.UnitInterval = 0.0
    word: Annotated[str, lab.choice("a", "b")] = "a"
    warmup: int = 0


def test_values_within_the_rules_pass():
    _options.check_options(Config())
    _options.check_options(Config(steps=8, seeds=7, rate=1, noise=2.5, decay=0.99, word="b"))


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("steps", 1, "be an integer of at least 2, got 1."),
        ("steps", 2.0, "be an integer of at least 2, got 2.0."),
        ("steps", "many", "be an integer of at least 2, got 'many'."),
        ("steps", 5, "be a multiple of 2, got 5."),
        ("steps", 10, "be less than 10, got 10."),
        ("seeds", 2**31, f"be less than {2**31}, got {2**31}."),
        ("rate", 0, "be positive and finite, got 0."),
        ("rate", float("nan"), "be positive and finite, got nan."),
        ("noise", float("inf"), "be non-negative and finite, got inf."),
        ("noise", "loud", "be non-negative and finite, got 'loud'."),
        ("decay", 1.0, "lie in [0, 1), got 1.0."),
        ("word", "c", "be one of 'a', 'b', got 'c'."),
    ],
)
def test_a_value_against_its_rule_is_named(field, value, rule):
    with pytest.raises(lab.UsageError) as error, _options.usage():
        _options.check_options(dataclasses.replace(Config(), **{field: value}))
    assert str(error.value) == f"`--{field}` must {rule}"


def test_warmup_is_less_than_steps():
    lab.check_warmup(Config(warmup=3))
    with pytest.raises(ValueError, match=r"`--warmup` must be less than `--steps` = 4, got 4\."):
        lab.check_warmup(Config(warmup=4))


def test_a_field_is_an_option_with_hyphens():
    assert _options.option_name("data_levels") == "--data-levels"
