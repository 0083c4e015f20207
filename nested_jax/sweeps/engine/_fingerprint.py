"""Fingerprint of everything that a sweep's results depend on; it ties a store to its sweep."""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax

from nested_jax._version import __version__
from nested_jax.sweeps.engine._evaluation import evaluate
from nested_jax.sweeps.engine._job import Job
from nested_jax.sweeps.engine._text import content_of, text_of
from nested_jax.sweeps.engine._tracing import program_of
from nested_jax.sweeps.grid import label
from nested_jax.sweeps.lanes import Layout


def fingerprint_of(job: Job, platform: str) -> dict[str, Any]:
    """Return everything a result depends on: the program, its arguments, the grid, versions.

    A program is identified by a hash of its text at one point, with its layout. Any change to the
    computation of the swept function, or of functions it calls, changes the hash; a change to a
    comment does not. What else makes the program of a chunk, lengths and versions, is recorded
    beside the hash.
    """
    programs = {}
    for layout, (static, columns) in zip(job.layouts(platform), job.samples(), strict=True):
        program = program_of(static, job.run, columns)
        try:
            text = text_of(program.jaxpr)
        except (LookupError, AttributeError):  # Python is called back, or JAX has changed.
            # Batched, as it runs: what calls Python may have a rule of its own for that.
            text = evaluate.lower(static, layout, program, job.run, columns).as_text()
        text += _described(layout)
        name = json.dumps({key: label(value) for key, value in static})
        programs[name] = hashlib.sha256(text.encode()).hexdigest()
    arguments = hashlib.sha256()
    for leaf in jax.tree.leaves(job.run):
        arguments.update(content_of(leaf).encode())
    return {
        "programs": programs,
        "arguments": arguments.hexdigest(),
        "grid": job.grid.describe(),
        "chunk": [*job.chunk],
        "platform": platform,
        "x64": jax.dtypes.canonicalize_dtype(float).itemsize == 8,
        "jax": jax.__version__,
        "nested_jax": __version__,
    }


def _described(layout: Layout | None) -> str:
    """Return a layout as text, the same in every process: sets have no order."""
    if layout is None:
        return "vmap"
    return f"{layout.axis} {layout.pieces} {[*map(sorted, layout.alike)]}"


def origin_of(job: Job, fingerprint: Mapping[str, Any]) -> Callable[[int], bytes]:
    """Return a function from a chunk to the bytes that say what it is of.

    A line of JSON names the program, with everything else that a result depends on, the static
    values, and the dtype and length of each column of points. The columns follow, without their
    positions in the grid, so that a larger grid may read the chunk.
    """
    program = digest({k: v for k, v in fingerprint.items() if k not in ("grid", "chunk")})

    def origin(index: int) -> bytes:
        columns = job.columns(index)
        named = [{key: [c.dtype.str, c.size] for key, c in axis.items()} for axis in columns]
        static = {name: label(value) for name, value in job.static(index)}
        text = json.dumps({"program": program, "static": static, "columns": named})
        values = [column.tobytes() for axis in columns for column in axis.values()]
        return b"".join([text.encode(), b"\n", *values])

    return origin


def digest(fingerprint: Mapping[str, Any]) -> str:
    """Return the hash of a fingerprint."""
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()
