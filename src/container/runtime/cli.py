"""The command `vapp-oci`: parse, run one verb, tell errors as runc's callers expect to read them."""

import os
import sys
import time

from container.errors import ConfigError, ContainerError
from container.runtime import arguments as parsing
from container.runtime import commands
from container.runtime.state import format_time
from container.spec.config import OCI_VERSION
from container.spec.document import encode

VERSION = "0.1.0"


def main(argv: "list[str] | None" = None) -> int:
    """Run the command line `argv`; returns the exit status."""
    words = sys.argv[1:] if argv is None else argv
    try:
        arguments = parsing.parse(words)
    except ContainerError as error:
        _tell(None, error)
        return 1
    if arguments.has("--version"):
        # The first line's shape is what containerd's go-runc parses.
        sys.stdout.write(f"runc version {VERSION} (vapp-oci)\nspec: {OCI_VERSION}\n")
        return 0
    if not arguments.verb or arguments.has("--help"):
        sys.stdout.write(parsing.help_text(arguments.verb))
        return 0
    try:
        _check_log(arguments)
        return commands.VERBS[arguments.verb](arguments)
    except ContainerError as error:
        _tell(arguments, error)
    except OSError as error:
        _tell(arguments, ContainerError(_words(error)))
    except KeyboardInterrupt:
        return 130
    return commands.EXEC_FAILED if arguments.verb == "exec" else 1


def _check_log(arguments: parsing.Arguments) -> None:
    """Refuse a log that could not be written to before anything is done that it should tell of."""
    if arguments.get("--log-format", "text") not in ("text", "json"):
        raise ConfigError(f"unknown log format `{arguments.get('--log-format')}`", "text or json")
    log = arguments.get("--log")
    if log and log != "/dev/stderr":
        try:
            os.close(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644))
        except OSError as error:
            raise ConfigError(
                f"cannot open log `{log}`: {(error.strerror or '').lower()}", "name another file"
            ) from error


def _words(error: OSError) -> str:
    where = f"`{error.filename}`: " if error.filename else ""
    return f"{where}{(error.strerror or str(error)).lower()}" if not getattr(error, "call", "") else str(error)


def _tell(arguments: "parsing.Arguments | None", error: ContainerError) -> None:
    text = error.message + (f"\nhint: {error.hint}" if error.hint else "")
    sys.stderr.write(f"vapp-oci: {text}\n")
    log = arguments.get("--log") if arguments else ""
    if not log or log == "/dev/stderr":
        return
    now = format_time(time.time())
    if arguments is not None and arguments.get("--log-format") == "json":
        line = encode({"level": "error", "msg": error.message, "time": now})
    else:
        line = f'time="{now}" level=error msg={encode(error.message)}'
    try:
        with open(log, "a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as failure:
        sys.stderr.write(f"vapp-oci: cannot write log `{log}`: {os.strerror(failure.errno or 0).lower()}\n")


if __name__ == "__main__":
    sys.exit(main())
