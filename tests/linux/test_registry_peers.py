"""skopeo, podman and Debian's registry against ours: what they push is what they pull, digest by digest."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = pytest.mark.peers


def need(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"`{program}` is not installed")


def run(*words: str | Path) -> str:
    result = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, f"{words}: {result.stdout}{result.stderr}"
    return result.stdout


@contextmanager
def serve(store: Path, *options: str) -> Iterator[str]:
    """Run our server and give its address."""
    words = [sys.executable, "-m", "blob", "--listen", "127.0.0.1:0", "--store", str(store), "--no-upstreams", *options]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout
        try:
            yield json.loads(process.stdout.readline())["listen"][0]
        finally:
            process.terminate()
    assert process.returncode == 0


@contextmanager
def debian_registry(directory: Path) -> Iterator[str]:
    """Run Debian's docker-registry and give its address."""
    need("docker-registry")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = directory / "registry.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {directory}/data}}}}\n"
        f"http: {{addr: '{address}'}}\n"
    )
    words = ["docker-registry", "serve", str(config)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(f"http://{address}/v2/")
            yield address
        finally:
            process.kill()


def wait_for(url: str) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    """A root file system of busybox, packed on the spot."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("`busybox` is not installed")
    path = tmp_path / "rootfs.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(busybox, "bin/busybox")
        link = tarfile.TarInfo("bin/sh")
        link.type, link.linkname = tarfile.SYMTYPE, "busybox"
        tar.addfile(link)
    return path


def load(rootfs: Path, address: str, name: str) -> str:
    """Push the root file system and return its digest."""
    command = (sys.executable, "-m", "blob", "load", rootfs, name, "--to", f"http://{address}")
    return run(*command).strip().partition("@")[2]


def digest_of(address: str, name: str, reference: str) -> str:
    with urllib.request.urlopen(f"http://{address}/v2/{name}/manifests/{reference}") as answer:
        return str(answer.headers["Docker-Content-Digest"])


def skopeo_copy(source: str, target: str) -> None:
    need("skopeo")
    run("skopeo", "copy", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false", source, target)


def skopeo_digest(image: str) -> str:
    return str(json.loads(run("skopeo", "inspect", "--tls-verify=false", image))["Digest"])


@pytest.mark.parametrize("kind", ["dir", "oci"])
def test_skopeo_copies_there_and_back_without_changing_a_byte(tmp_path: Path, rootfs: Path, kind: str) -> None:
    suffix = ":x" if kind == "oci" else ""
    with serve(tmp_path / "store") as address:
        digest = load(rootfs, address, "demo/box:1")
        for step in range(2):
            local = f"{kind}:{tmp_path}/{kind}{step}{suffix}"
            skopeo_copy(f"docker://{address}/demo/box:1" if step == 0 else f"docker://{address}/back/box:0", local)
            skopeo_copy(local, f"docker://{address}/back/box:{step}")
            assert digest_of(address, "back/box", str(step)) == digest
        assert skopeo_digest(f"docker://{address}/back/box:1") == digest


@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
def test_archives_of_skopeo_are_loaded(tmp_path: Path, rootfs: Path, kind: str) -> None:
    with serve(tmp_path / "store") as address:
        load(rootfs, address, "demo/box:1")
        run(
            "skopeo", "copy", "--src-tls-verify=false", f"docker://{address}/demo/box:1", f"{kind}:{tmp_path}/a.tar:x:1"
        )
        loaded = load(tmp_path / "a.tar", address, "loaded:1")
        assert skopeo_digest(f"docker://{address}/loaded:1") == loaded
        layers = [
            json.loads(run("skopeo", "inspect", "--config", "--tls-verify=false", f"docker://{address}/{name}:1"))[
                "rootfs"
            ]
            for name in ("demo/box", "loaded")
        ]
        assert layers[0] == layers[1]


class Podman:
    """podman with storage of its own below a directory, whose name must be short (50 characters, says podman)."""

    def __init__(self, directory: Path) -> None:
        need("podman")
        self._words = (
            "podman",
            "--cgroup-manager=cgroupfs",
            "--storage-driver=vfs",
            f"--root={directory}/root",
            f"--runroot={directory}/runroot",
        )

    def __call__(self, *words: str) -> str:
        return run(*self._words, *words)


@pytest.mark.skipif(os.geteuid() != 0, reason="podman without root needs subordinate ids and a session")
def test_podman_pulls_and_pushes(tmp_path: Path, rootfs: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="blob") as short, serve(tmp_path / "store") as address:
        podman = Podman(Path(short))
        digest = load(rootfs, address, "demo/box:1")
        podman("pull", "--quiet", "--tls-verify=false", f"{address}/demo/box:1")
        inspected = podman("image", "inspect", "--format", "{{.Digest}} {{.Config.Cmd}}", f"{address}/demo/box:1")
        assert inspected.split() == [digest, "[/bin/sh]"]
        podman("push", "--quiet", "--tls-verify=false", f"{address}/demo/box:1", f"{address}/pushed/box:7")
        podman("rmi", "--all", "--force")
        podman("pull", "--quiet", "--tls-verify=false", f"{address}/pushed/box:7")
        assert podman("images", "--format", "{{.Repository}}:{{.Tag}}").split() == [f"{address}/pushed/box:7"]


def test_debians_registry_is_cached_and_outlived(tmp_path: Path, rootfs: Path) -> None:
    need("skopeo")
    with debian_registry(tmp_path) as upstream:
        digest = load(rootfs, upstream, "demo/box:1")
        with serve(tmp_path / "store", "--upstream", f"debian.test=http://{upstream}") as address:
            skopeo_copy(f"docker://{address}/debian.test/demo/box:1", f"oci:{tmp_path}/first:x")
            tags = json.loads(
                run("skopeo", "list-tags", "--tls-verify=false", f"docker://{address}/debian.test/demo/box")
            )
            assert tags["Tags"] == ["1"]
    with serve(tmp_path / "store", "--upstream", f"debian.test=http://{upstream}") as address:
        skopeo_copy(f"docker://{address}/debian.test/demo/box:1", f"oci:{tmp_path}/second:x")
        assert digest_of(address, "debian.test/demo/box", "1") == digest


def test_our_client_pushes_to_debians_registry_what_skopeo_pulls(tmp_path: Path, rootfs: Path) -> None:
    need("skopeo")
    with debian_registry(tmp_path) as address:
        digest = load(rootfs, address, "demo/box:1")
        assert skopeo_digest(f"docker://{address}/demo/box:1") == digest
        skopeo_copy(f"docker://{address}/demo/box:1", f"dir:{tmp_path}/dir")
