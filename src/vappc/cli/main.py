"""`vappc VERB …`: find the verb, load what it needs, run it, turn errors into words and a status.

A verb's module is imported when the verb is used, so that `vappc --help` and `vappc ping` stay quick.
"""

import argparse
import importlib
import os
import sys
from typing import NoReturn

from container.errors import ContainerError
from vappc.cli import exits
from vappc.errors import ServerError, VappcError

#: verb -> (module of `vappc.cli`, one line of help); in the order of `vappc --help`.
VERBS = {
    "run": ("run", "run a command in a new container"),
    "ps": ("containers", "list containers"),
    "exec": ("execute", "run a command in a running container"),
    "logs": ("logs", "show what a container wrote"),
    "stop": ("lifecycle", "ask containers to end, then kill them"),
    "kill": ("lifecycle", "send a signal to containers"),
    "pause": ("lifecycle", "freeze containers"),
    "resume": ("lifecycle", "let paused containers go on"),
    "wait": ("lifecycle", "wait for containers to end and print their exit codes"),
    "rm": ("lifecycle", "delete containers"),
    "inspect": ("containers", "show everything about containers"),
    "pull": ("images", "fetch an image"),
    "images": ("images", "list images"),
    "image": ("images", "inspect, load or remove images"),
    "ping": ("status", "check that the daemon answers"),
    "doctor": ("doctor", "check what this machine can do; needs no daemon"),
    "completion": ("completion", "print the completion script of a shell"),
    "version": ("status", "show versions"),
    "shutdown": ("status", "end the daemon and everything that serves it"),
}

_EPILOG = """\
examples:
  vappc run docker.io/library/alpine -- echo hi
  vappc run -d --name web -v /srv/www:/www:ro localhost/web
  vappc exec -it web sh
  vappc logs -f web

The daemon is looked for at --socket, then $VAPPC_SOCKET, /run/vapp/vappc.sock, /tmp/vappc.sock.
Start one with `vappc-linux-daemon`. Help of a verb: `vappc VERB --help`.
"""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose help is coloured on a terminal, if rich-argparse is there."""

    def format_help(self) -> str:
        """Return the help text."""
        if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
            try:
                from rich_argparse import RawDescriptionRichHelpFormatter

                self.formatter_class = RawDescriptionRichHelpFormatter
            except ImportError:
                pass
        return super().format_help()


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        return _run(build_parser(arguments), arguments)
    except (VappcError, ContainerError) as error:
        return _fail(error)
    except BrokenPipeError:
        # Whoever read our output has had enough, as `head` does; the second flush at exit must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.FAILED
    except KeyboardInterrupt:
        return exits.INTERRUPTED


def entry() -> NoReturn:
    """Be the program."""
    sys.exit(main())


def build_parser(arguments: list[str] | None = None) -> Parser:
    """Return the parser; only verbs that occur in `arguments` are filled in, all with None."""
    parser = Parser(
        prog="vappc",
        description="Run and look after containers of a vappc daemon.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--socket", metavar="ADDRESS", help="where the daemon listens")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs", required=True)
    for name, (module, text) in VERBS.items():
        made = verbs.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.add_argument("--socket", metavar="ADDRESS", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        if arguments is None or name in arguments:
            importlib.import_module(f"vappc.cli.{module}").configure(name, made)
    return parser


def _run(parser: Parser, arguments: list[str]) -> int:
    found = parser.parse_args(arguments)
    status: int = found.act(found)
    sys.stdout.flush()
    return status


def _fail(error: VappcError | ContainerError) -> int:
    sys.stderr.write(f"vappc: {error}\n")
    if error.hint:
        sys.stderr.write(f"hint: {error.hint}\n")
    if isinstance(error, ServerError) and error.code == "launch":
        return exits.of_launch(error.message)
    if isinstance(error, ServerError) and error.code == "cancelled":
        return exits.INTERRUPTED
    return exits.FAILED


if __name__ == "__main__":
    entry()
