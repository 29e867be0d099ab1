"""Exit statuses of `vappc`, as users of Docker and shells know them."""

#: Something of ours failed: no daemon, no image, a wrong request.
FAILED = 125
#: The command is there but cannot be run.
CANNOT_RUN = 126
#: The command is not there.
NOT_FOUND = 127
#: The command line is wrong: argparse's own.
USAGE = 2
#: Ended by Ctrl-C before anything ran.
INTERRUPTED = 130


def of_launch(message: str) -> int:
    """Return the status that fits why a program could not be started."""
    text = message.lower()
    if "no such file" in text or "not found" in text:
        return NOT_FOUND
    return CANNOT_RUN
