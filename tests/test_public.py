"""Tests of the public names: each is explained, exemplified, and reached where it is looked for."""

import inspect
import re
import subprocess
import sys

import pytest

import nested_jax as nj
from nested_jax import optimizers, plots, problems, schedules, sweeps, transforms
from nested_jax._version import __version__


def public(module):
    """Return the functions and classes that a package exports, or a module defines, by name."""
    is_package = hasattr(module, "__path__")
    return {
        name: member
        for name, member in inspect.getmembers(module)
        if (inspect.isfunction(member) or inspect.isclass(member)) and not name.startswith("_")
        if member.__module__.startswith("nested_jax" if is_package else module.__name__)
    }


LIBRARY = [nj, transforms, problems, sweeps, sweeps.optuna, optimizers, schedules]
# By object, since one is reached by several ways. Figures need no example each.
EXEMPLIFIED = list(dict.fromkeys(x for module in LIBRARY for x in public(module).values()))
PUBLIC = [*EXEMPLIFIED, *public(plots).values()]
FUNCTIONS = [x for x in PUBLIC if inspect.isfunction(x)]
RECORDS = [x for x in PUBLIC if hasattr(x, "_fields")]


def section(member, title):
    """Return the text of a section of a docstring, dedented; empty if there is none."""
    found = re.search(rf"^{title}:\n((?:    .*\n?|\n)*)", inspect.getdoc(member), re.MULTILINE)
    return inspect.cleandoc("\n" + found[1]) if found else ""


def entries(member, title):
    """Return the names that a section explains, in order."""
    return re.findall(r"^\**(\w+)(?:, \w+)*: ", section(member, title), re.MULTILINE)


def name_of(member):
    return f"{member.__module__}.{member.__qualname__}"


@pytest.mark.parametrize("member", PUBLIC, ids=name_of)
def test_docstring_begins_with_one_line(member):
    first, *rest = inspect.getdoc(member).splitlines()
    assert first.endswith(".")
    assert not rest or not rest[0]


@pytest.mark.parametrize(
    "member", [x for x in FUNCTIONS if x in EXEMPLIFIED or section(x, "Args")], ids=name_of
)
def test_docstring_of_a_function_explains_what_goes_in_and_out(member):
    signature = inspect.signature(member)
    assert entries(member, "Args") == list(signature.parameters)
    assert section(member, "Returns") or signature.return_annotation in (None, "None")


@pytest.mark.parametrize("member", RECORDS, ids=name_of)
def test_docstring_of_a_record_explains_its_fields(member):
    assert entries(member, "Attributes") == list(member._fields)


@pytest.mark.parametrize("member", [x for x in EXEMPLIFIED if x not in RECORDS], ids=name_of)
def test_docstring_has_an_example(member):
    assert ">>> " in section(member, "Example")


@pytest.mark.parametrize("member", FUNCTIONS, ids=name_of)
def test_everything_is_annotated(member):
    signature = inspect.signature(member)
    kinds = [signature.return_annotation, *(p.annotation for p in signature.parameters.values())]
    assert signature.empty not in kinds


def test_every_factory_is_reached_from_the_top():
    factories = {
        name
        for module in (optimizers, transforms, problems, schedules, sweeps)
        for name, member in public(module).items()
        if inspect.isfunction(member)
    } - {"load", "save", "stored_chunks", "write_file"}  # Of files: `nj.sweeps.save`.
    factories -= {"diverged", "halving"}  # Rules: `nj.sweeps.diverged`.
    assert factories | {"Grid", "Problem", "Rollout", "rollout"} <= public(nj).keys()


def test_all_names_are_listed():
    assert set(public(nj)) <= set(nj.__all__)
    assert all(hasattr(nj, name) for name in nj.__all__)


def test_hyperparameters_after_the_first_go_by_name():
    with pytest.raises(TypeError, match="positional argument"):
        nj.adamw(1e-3, 0.9, 0.999)
    for module in (optimizers, transforms):
        for name, member in public(module).items():
            if inspect.isfunction(member) and name != "nesterov_iterate":
                kinds = [p.kind for p in inspect.signature(member).parameters.values()]
                assert kinds[1:] == [inspect.Parameter.KEYWORD_ONLY] * (len(kinds) - 1), name


def test_every_state_is_named_after_a_factory():
    for name in public(transforms):
        if name.endswith("State"):
            words = re.sub(r"(?<!^)(?=[A-Z])", "_", name.removesuffix("State")).lower()
            assert words in public(transforms), name


def test_version():
    assert nj.__version__ == __version__
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", __version__)


def in_a_new_process(code):
    """Return the words that a program prints."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()


def test_the_engine_is_imported_without_what_only_some_need():
    imported = "import sys, {}; print(*sys.modules)"
    # Old versions of optax import chex.
    needed = set(in_a_new_process(imported.format("jax, jaxtyping, optax")))
    modules = set(in_a_new_process(imported.format("nested_jax"))) - needed
    of_extras = {"chex", "flax", "matfree", "matplotlib", "optuna", "rich", "scipy.stats", "xarray"}
    of_experiments = {"pandas", "patsy", "statsmodels", "tyro"}
    assert (of_extras | of_experiments | {"pytest", "ray"}).isdisjoint(modules)


@pytest.mark.parametrize(
    "name",
    ["plots.heatmap", "sweeps.save", "testing.Case", "theory.dc_gain"],
)
def test_modules_are_reached_from_the_top(name):
    assert in_a_new_process(f"import nested_jax as nj; print(nj.{name} is not None)") == ["True"]


def test_the_top_lists_what_it_has_and_nothing_else():
    assert nj.__all__ == sorted(nj.__all__)
    assert {*nj.__all__, "plots", "theory"} <= {*dir(nj)}
    with pytest.raises(AttributeError, match="module 'nested_jax' has no attribute 'adamx'"):
        _ = nj.adamx
