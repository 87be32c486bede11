"""The two kinds of error that are reported to a user: bad input, and a fault at run time.

A message is one line: what is wrong, the file and key, and what would be right.
"""


class PSLDError(Exception):
    """Base of the errors that are reported in one line, without a traceback."""

    exit_code: int


class UserError(PSLDError):
    """The input is wrong: a setting, a path, a damaged or foreign file."""

    exit_code = 2


class RunError(PSLDError):
    """The input is right but the run failed: NaN in the loss, a full disk, a lost rank."""

    exit_code = 1
