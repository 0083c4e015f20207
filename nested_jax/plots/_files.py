"""Figures as files, and as SVG for HTML pages."""

import hashlib
import io
import os
import pathlib
import re

from nested_jax._core.checks import check_positive
from nested_jax._core.extras import needs
from nested_jax._core.files import check_path, write_file

with needs("nested_jax.plots", "sweep"):
    import matplotlib
    from matplotlib.figure import Figure

# No date and a fixed salt, so that the same figure gives the same bytes.
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_SALT = "nested_jax"


def save(figure: Figure, path: str | os.PathLike[str], *, dpi: float = 150.0) -> None:
    """Write `figure` to `path` atomically.

    Args:
        figure: The figure to write.
        path: A path that ends in ``.png`` or ``.svg``, which sets the format. The figure is written
            to a temporary file in the same folder, which is then renamed.
        dpi: Dots per inch of a PNG.

    Raises:
        TypeError: If `figure` is not a figure.
        ValueError: If `path` has another ending, or `dpi` is not positive.
        FileNotFoundError: If the folder does not exist.
    """
    _check_figure(figure)
    check_positive("dpi", dpi)
    check_path("path", path)
    path = pathlib.Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg"):
        raise ValueError(f"`path` must end in .png or .svg, got {str(path)!r}.")
    metadata, file = _NO_METADATA if kind == "svg" else None, io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": _SALT}):
        figure.savefig(file, format=kind, dpi=dpi, metadata=metadata)
    write_file(path, file.getvalue())


def to_svg(figure: Figure) -> str:
    """Return `figure` as an ``<svg>`` element for an HTML page, with its text kept as text.

    The ids contain a digest of the drawing, so the ids of different figures on a page do not clash
    and the same figure always gives the same element.

    Raises:
        TypeError: If `figure` is not a figure.
    """
    _check_figure(figure)
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": _SALT}):
        figure.savefig(file, format="svg", metadata=_NO_METADATA)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    prefix = f"f{hashlib.sha256(svg.encode()).hexdigest()[:12]}-"
    # Replace within tags only: the text of a title may look like an id.
    return re.sub(
        r"<[^>]+>",
        lambda tag: re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", tag.group()),
        svg,
    )


def _check_figure(figure):
    if not isinstance(figure, Figure):
        raise TypeError(f"`figure` must be a matplotlib Figure, got {figure!r}.")
