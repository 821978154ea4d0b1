"""Errors that a user can act on: each names the parameter, its value, what is allowed and the fix."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class UserError(ValueError):
    """Something the user gave cannot be used. The message is one clear sentence, fit to be shown as it is."""

    def _render_traceback_(self) -> list[str]:
        """What IPython, and so a notebook, shows instead of a stack trace."""
        return [f"{type(self).__name__}: {self}"]


class MissingData(UserError, FileNotFoundError):
    """A data set is not where it was looked for."""


class MissingPackage(UserError, ImportError):
    """A package that only some of the data need is not installed."""


class DeviceLost(UserError, RuntimeError):
    """The GPU failed, and this process cannot use it any more; the next one may."""


class Diverged(UserError, ArithmeticError):
    """Training met a loss or gradient that is not finite.

    failures  of runs that were trained together, what each that failed says, by its folder
    """

    def __init__(self, message: str, failures: Mapping[Path, str] | None = None) -> None:
        super().__init__(message)
        self.failures = dict(failures or {})


MEND, DIVERGED, AGAIN = 2, 3, 75


def status(error: UserError) -> int:
    """The exit status of a command that ended by it.

    2   what only the user can mend;  3  the same run would diverge again;  75  the next process may succeed
    """
    return AGAIN if isinstance(error, DeviceLost) else DIVERGED if isinstance(error, Diverged) else MEND


def invalid(parameter: str, value: object, allowed: str, fix: str = "") -> UserError:
    """A UserError in the house's form: `parameter=value is not allowed: it must be ALLOWED. FIX`."""
    return UserError(f"{parameter}={value!r} is not allowed: it must be {allowed}." + (f" {fix}" if fix else ""))
