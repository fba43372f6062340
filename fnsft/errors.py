"""The one exception that a user's mistake raises."""


class InputError(ValueError):
    """Bad input, described in one line: what was expected, found, where, and what to do.

    The command line prints the message without a traceback and exits with code 2.
    Anything else that is raised is a defect of ours and keeps its traceback.
    """
