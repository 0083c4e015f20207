"""The reference: its directive, links to it from all code, and a check that nothing is missing."""

import inspect
import pkgutil
import re
from collections import defaultdict
from importlib import import_module
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.domains.python import PyObject
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

import nested_jax

logger = logging.getLogger(__name__)
PAGES = "generated"


class Reference(SphinxDirective):
    """`.. reference:: module` with names as its content: a table of them, with a page for each."""

    required_arguments = 1
    has_content = True

    def run(self):
        """Return what autosummary makes of the names, and the list of their pages."""
        module, names = self.arguments[0], list(filter(None, self.content))
        lines = [f".. currentmodule:: {module}", "", ".. autosummary::", "   :nosignatures:", ""]
        lines += [f"   {name}" for name in names]
        lines += ["", ".. toctree::", "   :hidden:", ""]
        lines += [f"   {name} <{PAGES}/{module}.{name}>" for name in names]
        return self.parse_text_to_nodes("\n".join(lines))


def write_pages(app):
    """Write the page of each name: its docstring, and the row of README's table that it is in."""
    folder = Path(app.srcdir, "reference")
    rows = _differences(Path(app.srcdir).parent / "README.md")
    pages = {}
    for overview in folder.glob("*.rst"):
        found = re.findall(r"\.\. reference:: (\S+)\n\n((?: {3}\w+\n)+)", overview.read_text())
        for module, names in found:
            for name in names.split():
                pages[f"{module}.{name}.rst"] = _page(module, name, rows.get(name))
    (folder / PAGES).mkdir(exist_ok=True)
    for old in (folder / PAGES).iterdir():
        if old.name not in pages:
            old.unlink()
    for name, text in pages.items():
        path = folder / PAGES / name
        # Untouched where nothing changed, so that Sphinx does not read it again.
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def _page(module, name, row):
    lines = [name, "=" * len(name), "", f".. currentmodule:: {module}", ""]
    if inspect.isclass(getattr(import_module(module), name)):
        lines += [f".. autoclass:: {name}", "   :members:", ""]
    else:
        lines += [f".. autofunction:: {name}", ""]
    if row:
        title = "What differs from optax"
        nearest, text = row
        lines += [title, "-" * len(title), "", f"optax's nearest: {nearest}.", "", f"{text}.", ""]
    return "\n".join(lines)


def _differences(readme):
    """Return (optax's nearest, what differs) of each name in README's table of the collection."""
    found = {}
    table = readme.read_text().split("## The collection")[1].split("\n## ")[0]
    for line in re.findall(r"^\| (`.*) \|$", table, re.MULTILINE):
        ours, nearest, text = line.replace("`", "``").split(" | ")
        nearest = re.sub(r"``(?=\w)", "``optax.", nearest).replace("–", "none")
        found |= dict.fromkeys(re.findall(r"\w+", ours), (nearest, text[0].upper() + text[1:]))
    return found


class LinkCode(SphinxPostTransform):
    """Make a link of code that names something of the reference, in guides and docstrings."""

    default_priority = 5

    def run(self, **kwargs):
        """Wrap the code; a name that begins with the library's must be there."""
        targets = self._targets()
        for node in list(self.document.findall(nodes.literal)):
            name = re.sub(r"^nj\.", "nested_jax.", node.astext()).removesuffix("()")
            if not re.fullmatch(r"\w+(\.\w+)*", name) or self._stands_apart(node, name):
                continue
            ways = [f"{room}.{name}" for room in self._rooms(node)]
            found = next((targets[way] for way in [*ways, name] if way in targets), [])
            if len(found) == 1:
                docname, anchor = found[0]
                copy, here = node.deepcopy(), self.env.docname
                link = make_refnode(self.app.builder, here, docname, anchor, copy, name)
                node.replace_self(link)
            elif name.startswith("nested_jax."):
                logger.warning("%s is not in the reference", name, location=node)

    def _stands_apart(self, node, name):
        """Tell whether code is linked already, or names an argument or something of optax's."""
        if isinstance(node.parent, (nodes.reference, nodes.title, addnodes.pending_xref)):
            return True
        cell = node.parent.parent
        if isinstance(cell, nodes.entry):
            head = next(cell.parent.parent.parent.findall(nodes.row))
            if "optax" in head[cell.parent.index(cell)].astext():
                return True
        signature = _signature(node)
        parameters = signature.findall(addnodes.desc_sig_name) if signature else ()
        return name in {parameter.astext() for parameter in parameters}

    def _rooms(self, node):
        """Return where a name is looked for first: in the room of the docstring or of the page."""
        signature = _signature(node)
        module = signature and signature.get("module")
        page = self.env.docname.split("/")[-1]
        return [*filter(None, [module]), f"nested_jax.{page}", "nested_jax"]

    def _targets(self):
        """Return (page, anchor) by every way to name an object: in full, or its last parts."""
        targets = defaultdict(list)
        for name, entry in self.env.domains.python_domain.objects.items():
            parts = name.split(".")
            # A method is named with its class.
            shortest = 2 if entry.objtype in ("attribute", "method", "property") else 1
            for i in range(len(parts) - shortest + 1) if not entry.aliased else ():
                targets[".".join(parts[i:])].append((entry.docname, entry.node_id))
        return targets


def _signature(node):
    """Return the signature that a docstring around a node is of, if there is one."""
    while node and not isinstance(node, addnodes.desc):
        node = node.parent
    return node and node[0]


def public():
    """Return the ways to import each public object, by its identity."""
    names = defaultdict(list)
    rooms = [info.name for info in pkgutil.iter_modules(nested_jax.__path__)]
    rooms = [f"nested_jax.{name}" for name in rooms if not name.startswith("_")]
    for module in map(import_module, ["nested_jax", *rooms]):
        is_package = hasattr(module, "__path__")
        for name, member in vars(module).items():
            home = getattr(member, "__module__", module.__name__ if is_package else "")
            is_own = home.startswith("nested_jax") if is_package else home == module.__name__
            if is_own and not name.startswith("_") and not inspect.ismodule(member):
                names[id(member)].append(f"{module.__name__}.{name}")
    return names


def check(app, env):
    """Warn of public objects that are not in the reference exactly once."""
    documented = env.domains.python_domain.objects
    for names in public().values():
        found = [name for name in names if name in documented and not documented[name].aliased]
        if len(found) != 1:
            logger.warning("%s: in the reference %d times, not once", names[0], len(found))


def _skip(app, what, name, member, skip, options):
    # Fields of a NamedTuple, which its docstring explains under `Attributes:`.
    return True if type(member).__name__ == "_tuplegetter" else None


def setup(app):
    """Add all of it, and call attributes attributes."""
    app.add_directive("reference", Reference)
    app.add_post_transform(LinkCode)
    app.connect("builder-inited", write_pages)
    app.connect("env-check-consistency", check)
    app.connect("autodoc-skip-member", _skip)
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
