"""What the tests of the experiments share: the command line, its options, pages, compilation."""

import contextlib
import dataclasses
import io
import json
import re

import jax
import pytest

from experiments import __main__

EXPERIMENTS = __main__.EXPERIMENTS
every = pytest.mark.parametrize("name", EXPERIMENTS)
SETTINGS = (
    *("jax_enable_x64", "jax_default_device"),
    *("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"),
)


def run(*words):
    """Run the command line of `words`, undo what it sets of JAX, and return its exit code."""
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    try:
        return __main__.main([*map(str, words)])
    except SystemExit as exit_:
        return exit_.code
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def option(field):
    """Return the option of a field of a configuration."""
    return "--" + field.replace("_", "-")


def seed_of(name):
    """Return the field with the first seed of an experiment."""
    return "model_seed" if name == "levels" else "seed"


def refusal(capsys, *words):
    """Return the line with which a command is refused."""
    capsys.readouterr()
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: [^\n]+\n", error), error
    return error.removeprefix("error: ").rstrip()


def finished(name, config, out):
    """Run an experiment that must succeed; return what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert run(name, *options_of(config, out)) == 0
    assert printed.getvalue().endswith(f"Report: {out / 'report.html'}\n")
    made, page = json.loads((out / "config.json").read_text()), (out / "report.html").read_text()
    assert [*made["seconds"]] == [*EXPERIMENTS[name].parts]  # No part is without its times.
    assert made["wall_seconds"] >= sum(part["wall_seconds"] for part in made["seconds"].values())
    # A smoke test answers nothing.
    quick = getattr(config, "quick", False)
    assert ("This is a smoke test" in page) == quick == ('<p class="answer">' not in page)
    return printed.getvalue()


def options_of(config, out, **changes):
    """Return the options of a configuration, some of them changed."""
    words = []
    for name, value in {**dataclasses.asdict(config), **changes, "out": out}.items():
        if isinstance(value, bool):
            words += [option(name)] if value else []
        else:
            words += [option(name), value]
    return words


def text_of(page):
    """Return a page without its figures."""
    return re.sub(r"<svg.*?</svg>\s*", "", page, flags=re.DOTALL)


def is_self_contained(page):
    """Tell whether nothing is loaded from outside: the addresses are names of XML dialects."""
    return not any(word in page for word in ("<script", "<link", 'src="http'))


@contextlib.contextmanager
def compiling(*, quickly):
    """Leave out most of XLA's optimizations or not: without, a program takes longer to run."""
    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, quickly)
    try:
        yield
    finally:
        jax.config.update(name, before)
