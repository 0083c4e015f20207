"""Packages that the core does without: an import that fails names the extra to install."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def needs(user: str, extra: str) -> Iterator[None]:
    """Wrap imports of what an extra of nested-jax brings.

    Args:
        user: The public name that needs the packages.
        extra: The extra that brings them.

    Raises:
        ImportError: If a package is missing; the message names it and the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        message = f"`{user}` needs {package}: pip install 'nested-jax[{extra}]'."
        raise ImportError(message, name=error.name) from error
