"""The command as a process: readiness, signals, and one clear line when it cannot."""

import asyncio
import json
import signal
import socket
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from blob.cli import main
from blob.config import Cache, Config, Server, Upstream
from blob.errors import ConfigError
from blob.server.serve import GRACE_S, parse_address, run_server
from unit.blob.fakeregistry import FakeRegistry
from unit.blob.upstream.archives import tar_bytes

COMMAND = [sys.executable, "-m", "blob"]


@contextmanager
def server(tmp_path: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    words = [*COMMAND, "--listen", "127.0.0.1:0", "--store", str(tmp_path / "store"), "--no-upstreams", *options]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


def run(*words: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=timeout, check=False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_listens_and_stops_without_a_word(tmp_path: Path, number: int) -> None:
    path = tmp_path / "sock"
    with server(tmp_path, "--unix", str(path)) as (process, ready):
        assert ready == {"ready": True, "listen": ready["listen"], "unix": str(path)}
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with urllib.request.urlopen(f"http://{ready['listen'][0]}/health") as answer:
            assert answer.read() == b"ok"
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (0, "", "")
    assert not path.exists()


async def test_a_download_that_hangs_does_not_hold_up_the_end(tmp_path: Path, upstream: FakeRegistry) -> None:
    digest = upstream.add_blob(bytes(4 << 20))
    upstream.stall_after = 1 << 20
    config = Config(
        Server(("127.0.0.1:0",)), Cache(str(tmp_path / "s")), {"up.test": Upstream(upstream.url, insecure=True)}
    )
    async with aiohttp.ClientSession() as http:
        async with run_server(config) as ready:
            response = await http.get(f"http://{ready.listen[0]}/v2/up.test/x/blobs/{digest}")
            await response.content.readexactly(1000)
            started = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - started < GRACE_S
        with pytest.raises(aiohttp.ClientError):
            await response.read()
    assert list((tmp_path / "s" / "tmp").iterdir()) == []


def test_a_killed_server_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with server(tmp_path, "--unix", str(path)) as (process, _):
        process.kill()
        process.wait()
    assert path.exists()
    with server(tmp_path, "--unix", str(path)) as (_, ready):
        assert ready["ready"]


def test_a_used_port_is_one_line_with_a_hint(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = run("--listen", address, "--store", str(tmp_path))
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == (
        f"docker-proxy-server: cannot listen at `{address}`: address already in use\n"
        "hint: choose another with `--listen`\n"
    )


def test_a_used_socket_or_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with server(tmp_path, "--unix", str(path)):
        other = run("--listen", "127.0.0.1:0", "--unix", str(path), "--store", str(tmp_path / "other"))
        same = run("--listen", "127.0.0.1:0", "--store", str(tmp_path / "store"))
        assert path.exists()
    assert "address already in use" in other.stderr
    assert "in use by another process" in same.stderr
    assert (other.returncode, same.returncode) == (1, 1)


def test_a_mistake_in_the_configuration_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[server]\nlisten = 5")
    result = run("--config", str(tmp_path / "c.toml"))
    assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (1, "", 1)
    assert "`server.listen`" in result.stderr


@pytest.mark.parametrize("words", [["--upstream", "quay.io"], ["--upstream", "quay.io=ftp://x"], ["--listen", "x"]])
def test_a_mistake_on_the_command_line_is_one_error(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--store", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hint: write" in captured.err


def test_load_pushes_a_root_file_system(tmp_path: Path) -> None:
    (tmp_path / "r.tar").write_bytes(tar_bytes({"bin/sh": b"#!"}))
    with server(tmp_path, "--unix", str(tmp_path / "sock")) as (_, ready):
        urls = (f"http://{ready['listen'][0]}", f"unix://{tmp_path}/sock")
        results = [run("load", str(tmp_path / "r.tar"), "demo/box:1", "--to", url) for url in urls]
        with urllib.request.urlopen(f"{urls[0]}/v2/demo/box/manifests/1") as answer:
            digest = answer.headers["Docker-Content-Digest"]
    assert [result.stdout for result in results] == [f"demo/box:1@{digest}\n"] * 2


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["/nothing.tar", "x:1"], "no such file"),
        (["/etc/hostname", "x:1"], "not a tar archive"),
        (["/nothing.tar", "X:1"], "not a repository name"),
    ],
)
def test_load_says_what_is_wrong(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["load", *words, "--to", "http://127.0.0.1:1"]) == 1
    assert text in capsys.readouterr().err


def test_load_without_a_server_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.tar").write_bytes(tar_bytes({"bin/sh": b"#!"}))
    assert main(["load", str(tmp_path / "r.tar"), "x:1", "--to", "http://127.0.0.1:1"]) == 1
    assert "connection refused" in capsys.readouterr().err


def test_help_teaches_and_loads_nothing_heavy() -> None:
    check = (
        "import sys; from blob.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(any(name in sys.modules for name in ('aiohttp', 'asyncio', 'msgspec', 'logging')))"
    )
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "docker-proxy-server load rootfs.tar.gz" in result.stdout


def test_the_version_is_the_distributions() -> None:
    assert run("--version").stdout.startswith("docker-proxy-server 0.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("127.0.0.1:5050", ("127.0.0.1", 5050)), ("[::1]:0", ("::1", 0)), (":80", ("0.0.0.0", 80))],
)
def test_addresses_are_parsed(text: str, expected: tuple[str, int]) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize("text", ["", "host", "host:", "host:x", "host:70000", "::1:5050", "[::1]"])
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_address(text)


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("--listen", "127.0.0.1:0", "--store", str(tmp_path / "file" / "store"))
    assert result.returncode == 1
    assert f"cannot make store `{tmp_path}/file/store`" in result.stderr
