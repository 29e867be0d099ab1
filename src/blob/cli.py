"""`docker-proxy-server`: serve, or load an archive into a server that runs.

Imports what a verb needs only when it runs, so that `--help` is quick. Out of scope: everything else.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from blob.errors import BlobError, ConfigError

if TYPE_CHECKING:
    from blob.config import Config

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

_VERBS = ("serve", "load")
_EPILOG = """\
examples:
  docker-proxy-server                                  cache docker.io, ghcr.io, quay.io, registry.k8s.io
  docker-proxy-server --listen 127.0.0.1:0             at any free port; it is printed when ready
  docker-proxy-server --upstream my.org=https://r.my.org --unix /run/user/1000/blob.sock
  docker-proxy-server load rootfs.tar.gz demo/busybox:1 --to http://127.0.0.1:5050

then, with any client:
  podman pull --tls-verify=false 127.0.0.1:5050/docker.io/library/alpine
  podman push --tls-verify=false myimage 127.0.0.1:5050/my/image:1

`serve` is meant when no verb is given; `docker-proxy-server serve --help` lists its options.
"""
_SERVE_EPILOG = """\
Names: `/v2/quay.io/a/b` and `/v2/a/b?ns=quay.io` are quay.io's a/b, where quay.io is a configured upstream; any other
name is a repository of this server if it exists, and else Docker Hub's. Pushes make repositories of this server.

When ready, one line of JSON goes to stdout: {"ready":true,"listen":["127.0.0.1:5050"],"unix":""}
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] not in (*_VERBS, "-h", "--help", "--version"):
        words.insert(0, "serve")
    options = _make_parser().parse_args(words)
    try:
        return _load(options) if options.verb == "load" else _serve(options)
    except BlobError as error:
        print(f"docker-proxy-server: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _make_parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="docker-proxy-server",
        description="A registry that caches other registries and keeps images of your own.",
        epilog=_EPILOG,
        formatter_class=raw,
    )
    parser.add_argument("--version", action=_Version, help="print the version and exit")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    serve = verbs.add_parser(
        "serve", help="serve (what is meant without a verb)", epilog=_SERVE_EPILOG, formatter_class=raw
    )
    _add_serve(serve)
    load = verbs.add_parser("load", help="push an archive or a root file system into a running registry")
    load.add_argument("archive", metavar="ARCHIVE", help="OCI layout, `docker save` output, or root file system tar")
    load.add_argument("name", metavar="NAME[:TAG]", help="what to call it there (tag: latest)")
    load.add_argument("--to", metavar="URL", default="http://127.0.0.1:5050", help="registry (default: %(default)s)")
    load.add_argument("--image", metavar="NAME", default="", help="which one, if the archive holds several")
    return parser


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="TOML file; the options below override it")
    parser.add_argument("--store", metavar="DIR", help="where to keep everything (default: your data directory)")
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        action="append",
        help="repeat for more; port 0 is any (default: 127.0.0.1:5050)",
    )
    parser.add_argument("--unix", metavar="PATH", help="also listen at a socket that only you may use")
    parser.add_argument(
        "--upstream", metavar="NAME=URL", action="append", default=[], help="add a registry to cache; repeat for more"
    )
    parser.add_argument("--no-upstreams", action="store_true", help="cache none but those of `--upstream`")
    parser.add_argument("--verbose", action="store_true", help="log every request")


class _Version(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:  # noqa: A002 - argparse's name
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"docker-proxy-server {version('4lock-core')}")
        parser.exit()


def _serve(options: argparse.Namespace) -> int:
    import asyncio
    import logging
    import signal

    import msgspec

    from blob.server.serve import Ready, serve_until

    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )
    config = _make_config(options)

    def announce(ready: Ready) -> None:
        print(msgspec.json.encode(ready).decode(), flush=True)

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await serve_until(config, stop, announce)

    asyncio.run(run())
    return EXIT_OK


def _make_config(options: argparse.Namespace) -> "Config":
    from pathlib import Path

    import msgspec

    from blob.config import Config, Upstream, check_upstream, load_config

    config = load_config(Path(options.config)) if options.config else Config()
    server, cache = config.server, config.cache
    if options.listen:
        server = msgspec.structs.replace(server, listen=tuple(options.listen))
    if options.unix:
        server = msgspec.structs.replace(server, unix_socket=options.unix)
    directory = options.store or cache.directory or _default_store()
    upstreams = {} if options.no_upstreams else dict(config.upstreams)
    for text in options.upstream:
        name, equals, url = text.partition("=")
        if not equals:
            raise ConfigError(f"`--upstream {text}` has no `=`", "write for example `quay.io=https://quay.io`")
        # Who writes http:// on a command line means it.
        upstream = Upstream(url, insecure=url.startswith("http://"))
        upstreams[name] = check_upstream(name, upstream, "--upstream")
    return Config(server, msgspec.structs.replace(cache, directory=directory), upstreams)


def _default_store() -> str:
    import os

    if os.geteuid() == 0:
        return "/var/lib/docker-proxy-server"
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.path.join(data, "docker-proxy-server")


def _load(options: argparse.Namespace) -> int:
    import asyncio
    from pathlib import Path

    from blob.oci.reference import parse_name
    from blob.upstream.archive import open_archive
    from blob.upstream.client import client_at
    from blob.upstream.push import push_archive

    repository, tag = parse_name(options.name)

    async def run() -> None:
        with open_archive(Path(options.archive), options.image) as archive:
            async with client_at(options.to) as client:
                document = await push_archive(client, archive, repository, tag)
        print(f"{repository}:{tag}@{document.digest}")

    asyncio.run(run())
    return EXIT_OK
