"""`vappc logs`."""

import argparse
import time

from vappc.cli import values
from vappc.cli.output import write_output
from vappc.client.blocking import Client


def configure(_: str, parser: argparse.ArgumentParser) -> None:
    """Fill in the verb's options."""
    add = parser.add_argument
    add("-f", "--follow", action="store_true", help="go on until the container ends")
    add("-n", "--tail", type=int, metavar="N", help="only the last N lines")
    add("--since", metavar="WHEN", help="nothing older: unix seconds, or an age such as 10m")
    add("--timestamps", action="store_true", help="begin each line with its time")
    add("container", metavar="CONTAINER", type=values.instance_id, help="name of the container")
    parser.set_defaults(act=act)


def act(options: argparse.Namespace) -> int:
    """Do it."""
    since = None if options.since is None else values.moment(options.since, time.time())
    with Client(options.socket) as client:
        entries = client.logs(
            options.container,
            follow=options.follow,
            since=since,
            tail=options.tail,
            timestamps=options.timestamps,
        )
        for found in entries:
            write_output(found, timestamps=options.timestamps)
    return 0
