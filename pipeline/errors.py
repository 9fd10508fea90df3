"""PURE. One exception type per decision a caller can take; the command line turns each into its exit code."""


class DriftlineError(Exception):
    exit_code = 70


class CheckFailed(DriftlineError):
    """The check that the command made failed: its message is the finding."""

    exit_code = 1


class UsageError(DriftlineError):
    """Bad configuration, contract or arguments: nothing was started."""

    exit_code = 2


class Unreachable(DriftlineError):
    """A dependency stayed away until the deadline."""

    exit_code = 3


class Fatal(DriftlineError):
    """This process cannot go on, a new one can: the supervisor restarts it."""

    exit_code = 70
