"""One tree of errors; each says whether trying again can help, and carries the exit code of a step.

A message says what happened and ends with what to do.
"""

from __future__ import annotations


class SpicaError(Exception):
    """Something went wrong in Spica itself; report it with the log."""

    exit_code = 1
    door_code = 1
    kind = "bug"

    def __init__(self, message: str | None = None, **values: object) -> None:
        """Keep the message (the class docstring where none is given) and the values as attributes."""
        self.values = values
        super().__init__(message or (self.__doc__ or "").strip())


class DataError(SpicaError):
    """These data cannot be processed; look at the exposure and its log."""

    exit_code = 20
    door_code = 3
    kind = "data"


class RecipeError(SpicaError):
    """A person must edit the recipe, rule or profile; the message names the word."""

    exit_code = 21
    door_code = 2
    kind = "recipe"


class ConflictError(SpicaError):
    """The world moved while this was prepared; look at the newer state and ask again."""

    exit_code = 22
    door_code = 3
    kind = "conflict"


class TransientError(SpicaError):
    """Something outside is away for now (database, disk, node); try again later."""

    exit_code = 75
    door_code = 5
    kind = "transient"


class NothingToDoError(SpicaError):
    """Nothing matches; widen the selection."""

    exit_code = 20
    door_code = 4
    kind = "nothing"


class UsageError(SpicaError):
    """The words of the command do not fit; see --help."""

    exit_code = 21
    door_code = 2
    kind = "usage"
