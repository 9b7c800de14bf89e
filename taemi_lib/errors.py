"""Every error of this project that says all there is to say: what is wrong, where, and what to do.

The command line prints such an error as one message without a traceback, and the notebooks' runner
passes it on as it is. Anything else that is raised is a fault in the code.
"""

from __future__ import annotations

from collections.abc import Sequence


class TaemiError(Exception):
    """Base of all of them."""


class ChoiceError(TaemiError, ValueError):
    """A name or setting that is not allowed. The message lists what is."""


class ManifestError(TaemiError, ValueError):
    """A clip table that breaks rules. `problems`: one line each with file, row, column, fault."""

    def __init__(self, source: str, problems: Sequence[str]):
        self.problems = list(problems)
        count = len(self.problems)
        lines = "\n  ".join(self.problems)
        super().__init__(
            f"{source}: {count} problem{'s' * (count != 1)}, nothing was read:\n  {lines}"
        )


class EncoderError(TaemiError, RuntimeError):
    """An encoder that is missing or unsuitable. The message names it and says how to get it."""


class StoreError(TaemiError, ValueError):
    """A feature store that does not fit what is asked for. The message names both sides."""


class ExtractionError(TaemiError, RuntimeError):
    """Clips that failed for another reason than a bad file. All others are in the store."""


class RunError(TaemiError, ValueError):
    """A run that failed, or whose folder holds something else than what is asked for."""


class Diverged(TaemiError, ValueError):
    """A training whose loss is no longer finite. The message says what to try."""


class CheckpointError(TaemiError, ValueError):
    """A checkpoint that cannot predict a clip. The message says what is missing or different."""


class CourseError(TaemiError, RuntimeError):
    """The course stopped. The message says where and what to do."""
