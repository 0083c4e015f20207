"""Make the mutants of a file from its syntax tree: each differs from it in one place."""

import ast
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

ARITHMETIC = {"+": "-", "-": "+", "*": "/", "/": "*", "**": "*", "//": "/", "%": "//"}
ARITHMETIC |= {"<<": ">>", ">>": "<<", "&": "|", "|": "&"}
COMPARISONS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}
COMPARISONS |= {"is": "is not", "is not": "is", "in": "not in", "not in": "in"}
DTYPES = ("dtype", "float", "float32", "int32")
# Longest first, so that "<" does not match in "<=".
OPERATOR = re.compile(r"\*\*|//|<<|>>|<=|>=|==|!=|is\s+not|not\s+in|\bis\b|\bin\b|[-+*/%&|<>]")


class Mutant(NamedTuple):
    """A changed file.

    Attributes:
        file: Its path in the package.
        number: The first line that differs, from 1.
        source: All of the changed file.
        lines: That line before and after, stripped.
        of_default: Whether the default of an argument is changed.
    """

    file: str
    number: int
    source: str
    lines: tuple[str, str]
    of_default: bool


# From a node to its first byte and the byte after its last.
Place = Callable[[Any], tuple[int, int]]


def mutants(file: str, source: str) -> Iterator[Mutant]:
    """Yield every mutant of a file once, in the order of its syntax tree."""
    original, seen, text = source.splitlines(), {source}, source.encode()
    tree = ast.parse(source)
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def place(node):
        # Offsets of columns count bytes.
        first = starts[node.lineno - 1] + node.col_offset
        return first, starts[node.end_lineno - 1] + node.end_col_offset

    for node, of_default in _nodes(tree):
        for first, last, new in _edits(node, text, place):
            changed = (text[:first] + new.encode() + text[last:]).decode()
            after = changed.splitlines()
            if changed in seen or not after:
                continue
            seen.add(changed)
            pairs = zip(original, after, strict=False)
            number = next((i for i, (a, b) in enumerate(pairs) if a != b), 0)
            lines = original[number].strip(), after[number].strip()
            yield Mutant(file, number + 1, changed, lines, of_default)


def _nodes(tree: ast.AST, of_default: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Yield what a mutation may change: no annotation, which does not run, no type, no text."""
    yield tree, of_default
    is_of_types = isinstance(tree, ast.Call) and ast.unparse(tree.func) == "isinstance"
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns") or is_of_types or isinstance(tree, ast.JoinedStr):
            continue
        inside = of_default or name in ("defaults", "kw_defaults")
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _nodes(child, inside)


def _edits(node: ast.AST, text: bytes, place: Place) -> Iterator[tuple[int, int, str]]:
    """Yield (start, end, new text) in bytes for each mutation of one node."""
    if isinstance(node, ast.BinOp):
        yield from _operator(text, place(node.left)[1], place(node.right)[0], ARITHMETIC)
    elif isinstance(node, ast.AugAssign):
        first = place(node.target)[1]
        yield from _operator(text, first, place(node.value)[0], ARITHMETIC)
    elif isinstance(node, ast.Compare):
        for left, right in zip([node.left, *node.comparators], node.comparators, strict=False):
            yield from _operator(text, place(left)[1], place(right)[0], COMPARISONS)
    elif isinstance(node, ast.BoolOp):
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            first, last = place(left)[1], place(right)[0]
            yield first, last, text[first:last].decode().replace(old, new)
    elif isinstance(node, ast.UnaryOp):
        first, last = place(node)[0], place(node.operand)[0]
        yield first, last, re.sub(r"^(not\s+|[-+~])", "", text[first:last].decode())
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        yield *place(node), _other(node.value)
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        first, last = place(node.test)
        yield first, last, f"not ({text[first:last].decode()})"
        # The branch is never taken, or always.
        yield first, last, "False"
        if not isinstance(node, ast.While):
            yield first, last, "True"
    elif isinstance(node, ast.Call):
        yield from _arguments(node, place)


def _operator(
    text: bytes, first: int, last: int, others: dict[str, str]
) -> Iterator[tuple[int, int, str]]:
    """Yield the change of the operator between two operands."""
    between = text[first:last].decode()
    found = OPERATOR.search(between)
    other = found and others.get(" ".join(found[0].split()))
    # An operator in a comment changes nothing.
    if found and other and "#" not in between:
        yield first, last, between[: found.start()] + other + between[found.end() :]


def _other(value: float) -> str:
    if isinstance(value, bool):
        return str(not value)
    return str(value + 1) if isinstance(value, int) or not value else repr(value * 1.5)


def _arguments(call: ast.Call, place: Place) -> Iterator[tuple[int, int, str]]:
    """Yield a call without one keyword argument, and without a dtype that comes last."""
    given = [*call.args, *call.keywords]
    for i, argument in enumerate(given):
        named = getattr(argument, "attr", getattr(argument, "id", ""))
        drops = argument.arg if isinstance(argument, ast.keyword) else i and named in DTYPES
        if drops and i:
            yield place(given[i - 1])[1], place(argument)[1], ""
        elif drops:
            last = place(given[1])[0] if len(given) > 1 else place(argument)[1]
            yield place(argument)[0], last, ""
