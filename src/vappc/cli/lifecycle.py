"""`vappc stop`, `kill`, `rm`, `pause`, `resume`, `wait`: one thing done to each of several containers."""

import argparse
import sys
from collections.abc import Callable

from vappc.cli import exits, values
from vappc.client.blocking import Client
from vappc.errors import ServerError

Act = Callable[[Client, str, argparse.Namespace], str]


def configure(verb: str, parser: argparse.ArgumentParser) -> None:
    """Fill in the options of one of the verbs."""
    add = parser.add_argument
    if verb == "stop":
        add("-t", "--time", type=float, metavar="SECONDS", help="before SIGKILL (default: what run said)")
    elif verb == "kill":
        add("-s", "--signal", default="SIGKILL", metavar="SIGNAL", help="name or number (default: SIGKILL)")
    elif verb == "rm":
        add("-f", "--force", action="store_true", help="also one that runs")
    add("containers", nargs="+", metavar="CONTAINER", type=values.instance_id, help="name of a container")
    parser.set_defaults(act=act)


def act(options: argparse.Namespace) -> int:
    """Do it to each; one that fails does not keep the others from it."""
    status = 0
    with Client(options.socket) as client:
        for name in options.containers:
            try:
                sys.stdout.write(f"{_ACTS[options.verb](client, name, options)}\n")
            except ServerError as error:
                status = exits.FAILED
                sys.stderr.write(f"vappc: {error}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
    return status


def _stop(client: Client, name: str, options: argparse.Namespace) -> str:
    client.stop(name, options.time)
    return name


def _kill(client: Client, name: str, options: argparse.Namespace) -> str:
    client.kill(name, options.signal)
    return name


def _rm(client: Client, name: str, options: argparse.Namespace) -> str:
    client.remove(name, force=options.force)
    return name


def _pause(client: Client, name: str, _: argparse.Namespace) -> str:
    client.pause(name)
    return name


def _resume(client: Client, name: str, _: argparse.Namespace) -> str:
    client.resume(name)
    return name


def _wait(client: Client, name: str, _: argparse.Namespace) -> str:
    return str(client.wait(name).code)


_ACTS: dict[str, Act] = {
    "stop": _stop,
    "kill": _kill,
    "rm": _rm,
    "pause": _pause,
    "resume": _resume,
    "wait": _wait,
}
