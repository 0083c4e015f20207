"""Atomic file writes."""

import os
from pathlib import Path


def write(path: Path, content: str | bytes) -> None:
    """Write a file atomically: to a temporary file, flushed to disk, then renamed.

    Raises:
        OSError: If it cannot be written. An existing file stays as it was.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
