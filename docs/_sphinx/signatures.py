"""Signatures as the source has them.

Evaluated, `ScalarLike` would be a union of five types, and `jax.Array` a class of jaxlib's.
"""

import ast
import inspect
import re
import textwrap


def _definition(member):
    return ast.parse(textwrap.dedent(inspect.getsource(member))).body[0]


def _fields(cls):
    """Return the fields of a record as the arguments of its constructor."""
    fields = [node for node in cls.body if isinstance(node, ast.AnnAssign)]
    defaults = [node.value for node in fields if node.value]
    # A call, `dataclasses.field(...)`, would say less than dots.
    defaults = [ast.Constant(...) if isinstance(x, ast.Call) else x for x in defaults]
    arguments = [ast.arg(node.target.id, node.annotation) for node in fields]
    return ast.arguments([], arguments, None, [], [], None, defaults)


def _as_written(app, what, name, member, options, signature, returns):
    """Return the signature of a function, a method or a class in the words of its source."""
    if signature is None:
        return None
    node = _definition(member)
    if isinstance(node, ast.ClassDef):
        own = [x for x in node.body if isinstance(x, ast.FunctionDef) and x.name == "__init__"]
        arguments, returns = (own[0].args, None) if own else (_fields(node), None)
    else:
        arguments, returns = node.args, node.returns and ast.unparse(node.returns)
    for group in (arguments.posonlyargs, arguments.args):
        group[:] = [argument for argument in group if argument.arg != "self"]
    return f"({_tidy(ast.unparse(arguments))})", returns and _tidy(returns).strip("'")


def _tidy(text):
    # Shapes of one axis are written with a space, which tells linters that they are no names.
    return re.sub(r"' (\w*)'", r"'\1'", text)


def setup(app):
    """Take the place of what autodoc evaluates."""
    app.connect("autodoc-process-signature", _as_written)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
