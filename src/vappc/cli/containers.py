"""`vappc ps` and `vappc inspect`."""

import argparse
import shlex
import sys

from container.intent import ContainerInfo
from vappc.cli import values
from vappc.cli.output import age, print_json, print_table
from vappc.client.blocking import Client

_HEADERS = ("NAME", "IMAGE", "COMMAND", "CREATED", "STATUS")
_COMMAND_WIDTH = 30


def configure(verb: str, parser: argparse.ArgumentParser) -> None:
    """Fill in the options of one of the verbs."""
    add = parser.add_argument
    if verb == "inspect":
        add("containers", nargs="+", metavar="CONTAINER", type=values.instance_id, help="name of a container")
        add("--json", action="store_true", help="as JSON, which is the only form there is")
        parser.set_defaults(act=_inspect)
        return
    add("-a", "--all", action="store_true", help="those that have ended too")
    add("-q", "--quiet", action="store_true", help="names only")
    add("--json", action="store_true", help="as JSON")
    parser.set_defaults(act=_ps)


def status(info: ContainerInfo, now: float | None = None) -> str:
    """Return the state of a container as a phrase."""
    if info.exit is not None and info.status == "stopped":
        killed = " (out of memory)" if info.exit.oom else ""
        return f"exited ({info.exit.code}) {age(info.exit.finished, now)} ago{killed}"
    if info.status == "running":
        return f"up {age(info.started, now)}"
    return info.status


def _ps(options: argparse.Namespace) -> int:
    with Client(options.socket) as client:
        infos = [found for found in client.list_containers() if options.all or found.status != "stopped"]
    if options.json:
        print_json(infos)
    elif options.quiet:
        sys.stdout.write("".join(f"{found.id}\n" for found in infos))
    else:
        print_table(_HEADERS, [_row(found) for found in infos])
    return 0


def _inspect(options: argparse.Namespace) -> int:
    with Client(options.socket) as client:
        print_json([client.inspect(name) for name in options.containers])
    return 0


def _row(info: ContainerInfo) -> tuple[str, ...]:
    command = shlex.join(info.command)
    if len(command) > _COMMAND_WIDTH:
        command = f"{command[: _COMMAND_WIDTH - 1]}…"
    return info.id, info.image, command, f"{age(info.created)} ago", status(info)
