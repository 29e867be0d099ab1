"""`vappc exec`: run one more command in a running container."""

import argparse

from container.intent import ExecSpec
from vappc.cli import values
from vappc.cli.output import write_output
from vappc.cli.terminal import on_resize, open_stdin, raw, terminal_size
from vappc.client.blocking import Client
from vappc.errors import UsageError


def configure(_: str, parser: argparse.ArgumentParser) -> None:
    """Fill in the verb's options."""
    add = parser.add_argument
    add("-i", "--interactive", action="store_true", help="pass our stdin on")
    add("-t", "--tty", action="store_true", help="give the command a terminal")
    add("-e", "--env", action="append", default=[], metavar="KEY[=VALUE]", help="set a variable")
    add("-w", "--workdir", metavar="DIR", help="working directory")
    add("-u", "--user", metavar="USER[:GROUP]", help="names or numbers")
    add("--privileged", action="store_true", help="with all capabilities")
    add("container", metavar="CONTAINER", type=values.instance_id, help="name of the container")
    add("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="what to run")
    parser.set_defaults(act=act)


def act(options: argparse.Namespace) -> int:
    """Do it."""
    argv = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not argv:
        raise UsageError("no command to run", f"write `vappc exec {options.container} -- COMMAND`")
    rows, cols = terminal_size()
    spec = ExecSpec(
        argv=argv,
        env=values.environment(options.env),
        workdir=options.workdir,
        user=options.user,
        terminal=options.tty,
        stdin=options.interactive,
        privileged=options.privileged,
        rows=rows,
        cols=cols,
    )
    with Client(options.socket) as client, client.open_exec(options.container, spec) as process:
        process.wait_started()
        with raw(options.tty and options.interactive), on_resize(process.resize if options.tty else _ignore):
            if options.interactive:
                process.feed(open_stdin())
            for found in process:
                write_output(found)
        return process.exit.code if process.exit else 0


def _ignore(_: int, __: int) -> None:
    pass
