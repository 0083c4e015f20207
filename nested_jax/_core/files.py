"""Atomic file writes."""

import os
from pathlib import Path
from typing import Any


def check_path(name: str, value: Any) -> None:
    """Raise unless `value` is a file name as `pathlib.Path` takes it."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"`{name}` must be a file name, got {value!r}.")


def write_file(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file atomically: to a temporary file, flushed to disk, then renamed.

    Args:
        path: The file's name; its folder must exist.
        content: All of it.

    Raises:
        TypeError: If `path` is not a file name, or `content` is neither text nor bytes.
        OSError: If it cannot be written. An existing file stays as it was.

    Example:
        >>> import pathlib, tempfile
        >>> from nested_jax.sweeps import write_file
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_file(f"{folder}/best.txt", "0.01")
        ...     pathlib.Path(folder, "best.txt").read_text()
        '0.01'
    """
    check_path("path", path)
    if not isinstance(content, str | bytes):
        raise TypeError(f"`content` must be text or bytes, got {content!r}.")
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"`path` must be in a folder that exists, got {str(path)!r}.")
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        # A disk that is full does not say for which file, and other errors name the temporary one.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        aside.unlink(missing_ok=True)
