"""What the exit code of `run.py` says; docs/long_runs.md lists them for job scripts."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Codes of a run that did not finish; 0 is one that did."""

    ERROR = 1  # one message said what is wrong and how to cure it
    SAVED = 75  # a signal stopped it with all saved: `resume=true` goes on (EX_TEMPFAIL)
    DIVERGED = 76  # a loss was not finite; the last checkpoint is from before
    INTERRUPTED = 130  # Ctrl-C where nothing could be saved, or a second one
