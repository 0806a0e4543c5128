"""Errors for people: each names the value, what is allowed and what to do.

All of them are `ValueError`s, so code that knows nothing of minilora catches them as usual, and
the command line turns each into one line on standard error and exit status 2.
"""

from __future__ import annotations

import importlib
from types import ModuleType


class MiniloraError(ValueError):
    """Something was asked for that cannot be done as asked."""


class ShapeError(MiniloraError):
    """Arrays that do not fit together; the message names the operation and all the shapes."""


class DTypeError(MiniloraError, TypeError):
    """Arrays of a type that the operation does not take, or of types that do not mix."""


class TapeError(MiniloraError):
    """Backward was asked for where there is nothing, or no longer anything, to go back over."""


class ConfigError(MiniloraError):
    """A setting outside of what is allowed."""


class DataError(MiniloraError):
    """Training data that cannot be used; the message names file and line where there are any."""


class FormatError(MiniloraError):
    """A file that is not what its name promises, or that is damaged."""


class AdapterError(MiniloraError):
    """An adapter that does not exist, exists already, or does not fit the base."""


class NonFiniteError(MiniloraError):
    """A loss, a gradient or a weight that is not a number; the message names the tensor."""


class MissingExtraError(MiniloraError, ImportError):
    """An optional dependency is not installed; the message gives the pip command."""


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional dependency, or say which pip command brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{purpose} needs the package {module.split('.')[0]!r}, which is not installed: "
            f"pip install 'minilora[{extra}]', or in a checkout pip install -e '.[{extra}]'"
        ) from error
