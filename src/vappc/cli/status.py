"""`vappc ping`, `version` and `shutdown`: about the daemon, not about a container."""

import argparse
import sys
import time
from importlib import metadata

from vappc.cli.output import print_json
from vappc.client.blocking import Client
from vappc.errors import ConnectError
from vappc.protocol import PROTOCOL_VERSION


def configure(verb: str, parser: argparse.ArgumentParser) -> None:
    """Fill in the options of one of the verbs."""
    if verb == "shutdown":
        parser.add_argument("-f", "--force", action="store_true", help="stop containers that run first")
    else:
        parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(act={"ping": _ping, "version": _version, "shutdown": _shutdown}[verb])


def _shutdown(options: argparse.Namespace) -> int:
    with Client(options.socket) as client:
        client.shutdown(force=options.force)
    return 0


def _ping(options: argparse.Namespace) -> int:
    with Client(options.socket) as client:
        client.ping()
        began = time.perf_counter()
        client.ping()
        passed = time.perf_counter() - began
        if options.json:
            print_json({"address": str(client.address), "seconds": round(passed, 6)})
        else:
            sys.stdout.write(f"{client.address} answers in {passed * 1000:.2f} ms\n")
    return 0


def _version(options: argparse.Namespace) -> int:
    ours = metadata.version("4lock-core")
    try:
        with Client(options.socket, timeout_s=5) as client:
            daemon = client.hello().version
    except ConnectError:
        daemon = None
    if options.json:
        print_json({"client": ours, "protocol": PROTOCOL_VERSION, "daemon": daemon})
    else:
        sys.stdout.write(f"client    {ours}\nprotocol  {PROTOCOL_VERSION}\ndaemon    {daemon or 'not running'}\n")
    return 0
