"""Atomic file writes."""

import os
from pathlib import Path


def write_file(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file atomically: to a temporary file, flushed to disk, then renamed.

    Args:
        path: The file's name; its folder must exist.
        content: All of it.

    Raises:
        OSError: If it cannot be written. An existing file stays as it was.

    Example:
        >>> import pathlib, tempfile
        >>> from nested_jax.sweeps import write_file
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_file(f"{folder}/best.txt", "0.01")
        ...     pathlib.Path(folder, "best.txt").read_text()
        '0.01'
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        # A disk that is full does not say for which file.
        raise OSError(error.errno, error.strerror, error.filename or str(path)) from error
    finally:
        aside.unlink(missing_ok=True)
