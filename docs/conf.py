"""Configuration of the documentation site: `make docs`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_sphinx"))

import nested_jax

project = "nested_jax"
author = copyright = "The nested_jax authors"  # noqa: A001
version = release = nested_jax.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "myst_nb",
    "sphinx_copybutton",
    "blocks",
    "mathml",
    "reference",
    "signatures",
]
exclude_patterns = ["_sphinx"]
html_theme = "furo"
html_title = f"nested_jax {version}"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_math_renderer = "mathml"

nitpicky = True
# Of other projects, to which nothing links since nothing is fetched, and what Python has itself.
nitpick_ignore_regex = [
    ("py:class", r"(jax|np|optax|optuna|os|pd|plt|rich|xarray|xr)\..*"),
    ("py:class", r"Any|Callable|Iterable|Mapping|Sequence"),
    ("py:class", r"Array|ArrayLike|Axes|Bool|Complex|Figure|Float|Int|Job|Partial|Stopping"),
]

# In docstrings `name` is code, which becomes a link where it names something of the reference.
default_role = "literal"
smartquotes = False
autodoc_member_order = "bysource"
# The signatures have them.
autodoc_typehints = "none"
napoleon_attr_annotations = False
napoleon_use_ivar = True
autosummary_generate = False
maximum_signature_line_length = 90
toc_object_entries_show_parents = "hide"

myst_heading_anchors = 3
myst_enable_extensions = ["attrs_block", "colon_fence", "dollarmath"]
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_show_tb = True
nb_execution_timeout = 120
# What a cell prints beside its result, such as a warning, belongs to the page.
nb_merge_streams = True
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True
