"""What ends a command early: a user's mistake, or a signal."""


class InputError(ValueError):
    """Bad input, described in one line: what was expected, found, where, and what to do.

    The command line prints the message without a traceback and exits with code 2.
    Anything else that is raised is a defect of ours and keeps its traceback.
    """


class Interrupted(KeyboardInterrupt):
    """A signal has told the process to end; what it was writing is taken back on the way out.

    It passes what handles errors alone, as Ctrl-C does.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"signal {signum}")
        self.signum = signum
