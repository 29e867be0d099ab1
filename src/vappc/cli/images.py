"""`vappc pull`, `vappc images`, `vappc image inspect|load|rm`."""

import argparse
import os
import sys

from container.intent import ImageDetail, ImageInfo
from vappc.cli.output import ProgressLine, print_json, print_table, size
from vappc.client.blocking import Client

_HEADERS = ("NAME", "ID", "CREATED", "SIZE")


def configure(verb: str, parser: argparse.ArgumentParser) -> None:
    """Fill in the options of one of the verbs."""
    if verb == "pull":
        parser.add_argument("image", metavar="IMAGE", help="name of the image")
        parser.add_argument("--platform", metavar="OS/ARCH", help="which platform (default: this machine's)")
        parser.add_argument("--json", action="store_true", help="print the image as JSON")
        parser.set_defaults(act=_pull)
    elif verb == "images":
        parser.add_argument("-q", "--quiet", action="store_true", help="ids only")
        parser.add_argument("--json", action="store_true", help="as JSON")
        parser.set_defaults(act=_list)
    else:
        _configure_image(parser)


def _configure_image(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", title="actions", required=True)
    inspect = actions.add_parser("inspect", help="show everything about images")
    inspect.add_argument("images", nargs="+", metavar="IMAGE", help="name or id")
    inspect.add_argument("--json", action="store_true", help="as JSON, which is the only form there is")
    inspect.set_defaults(act=_inspect)
    load = actions.add_parser("load", help="read an image from an archive or a root file system tar")
    load.add_argument("path", metavar="FILE", help="OCI or Docker archive, or tar of a root file system")
    load.add_argument("--name", metavar="NAME", help="name it (default: localhost/ and the file's)")
    load.add_argument("--json", action="store_true", help="print the image as JSON")
    load.set_defaults(act=_load)
    remove = actions.add_parser("rm", help="remove images")
    remove.add_argument("images", nargs="+", metavar="IMAGE", help="name or id")
    remove.set_defaults(act=_remove)


def _pull(options: argparse.Namespace) -> int:
    progress = ProgressLine()
    with Client(options.socket) as client:
        try:
            image = client.pull_image(options.image, options.platform, progress)
        finally:
            progress.clear()
    return _print_image(image, options)


def _load(options: argparse.Namespace) -> int:
    progress = ProgressLine()
    with Client(options.socket) as client:
        try:
            image = client.load_image(os.path.abspath(options.path), options.name, progress)
        finally:
            progress.clear()
    return _print_image(image, options)


def _list(options: argparse.Namespace) -> int:
    with Client(options.socket) as client:
        images = client.images()
    if options.json:
        print_json(images)
    elif options.quiet:
        sys.stdout.write("".join(f"{_short(found.id)}\n" for found in images))
    else:
        print_table(_HEADERS, [row for found in images for row in _rows(found)])
    return 0


def _inspect(options: argparse.Namespace) -> int:
    with Client(options.socket) as client:
        print_json([client.inspect_image(name) for name in options.images])
    return 0


def _remove(options: argparse.Namespace) -> int:
    with Client(options.socket) as client:
        for name in options.images:
            client.remove_image(name)
            sys.stdout.write(f"{name}\n")
    return 0


def _print_image(image: ImageDetail, options: argparse.Namespace) -> int:
    if options.json:
        print_json(image)
    else:
        sys.stdout.write(f"{image.info.id}\n")
    return 0


def _rows(info: ImageInfo) -> list[tuple[str, ...]]:
    created = info.created[:10] or "-"
    return [(name, _short(info.id), created, size(info.size_bytes)) for name in info.names or ["-"]]


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]
