import json
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from container.images.children import REMOVER, UNPACKER
from unit.container.images.archives import file, layer_of, make_tar


def job_of(layer, url: str) -> bytes:
    job = {
        "digest": layer.digest,
        "size": layer.size,
        "diff_id": layer.diff_id,
        "directory": layer.directory,
        "source": {"url": f"{url}/v2/r/blobs/{layer.digest}"},
    }
    return json.dumps(job).encode() + b"\n"


def run(job: bytes) -> tuple[int, list[dict]]:
    done = subprocess.run(UNPACKER, input=job, capture_output=True, check=False, timeout=30)
    assert done.stderr == b""
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_layer_is_fetched_and_unpacked_with_progress(registry, tmp_path):
    layer, packed = layer_of(make_tar(file("a", os.urandom(3_000_000))), tmp_path)
    registry.add_blob(packed)
    status, lines = run(job_of(layer, registry.url))
    progress = [line["bytes"] for line in lines[:-1]]
    assert status == 0
    assert progress == sorted(progress)
    assert progress[-1] == layer.size
    assert lines[-1]["ok"]["entries"] == 1
    assert os.listdir(layer.path) == ["a"]
    assert run(job_of(layer, registry.url))[1][-1]["ok"]["present"]


def test_error_is_one_line_and_leaves_nothing(registry, tmp_path):
    layer, packed = layer_of(make_tar(file("a", b"1")), tmp_path)
    registry.blobs[layer.digest] = packed[:-1] + b"X"
    status, lines = run(job_of(layer, registry.url))
    assert status == 1
    assert lines[-1]["error"]["code"] == "digest-mismatch"
    assert lines[-1]["error"]["retryable"] is False
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "job", [b"", b"{}\n", b"[]\n", b'{"source": 1}\n', b'{"digest": "../x", "size": 1, "diff_id": "y"}\n']
)
def test_malformed_job_is_refused(job):
    status, lines = run(job)
    assert status == 1
    assert lines == [{"error": lines[0]["error"] | {"code": "bad-config"}}]


def test_killed_unpacker_is_followed_by_one_that_starts_clean(registry, tmp_path):
    layer, packed = layer_of(make_tar(file("a", os.urandom(1 << 20)), file("b", os.urandom(1 << 22))), tmp_path)
    registry.add_blob(packed)
    registry.cut = layer.size // 2
    with subprocess.Popen(UNPACKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(job_of(layer, registry.url))
        process.stdin.flush()
        process.stdout.readline()
        registry.hold = threading.Event()
        process.send_signal(signal.SIGKILL)
    registry.hold.set()
    registry.cut = 0
    assert [entry[0] for entry in os.listdir(tmp_path)] in ([], ["."])
    assert run(job_of(layer, registry.url))[0] == 0
    assert os.listdir(tmp_path) == [layer.name]


def test_two_at_once_unpack_a_layer_once(registry, tmp_path):
    layer, packed = layer_of(make_tar(file("a", os.urandom(1 << 20))), tmp_path)
    registry.add_blob(packed)
    registry.hold = threading.Event()
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(UNPACKER, stdin=pipe, stdout=pipe) for _ in range(2)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(job_of(layer, registry.url))
        process.stdin.close()
        process.stdin = None
    registry.hold.set()
    outputs = [json.loads(process.communicate()[0].splitlines()[-1]) for process in processes]
    assert sorted(line["ok"]["present"] for line in outputs) == [False, True]
    assert registry.blob_requests() == [layer.digest]


def test_unpacker_without_a_reader_takes_its_work_back(registry, tmp_path):
    layer, packed = layer_of(make_tar(file("a", os.urandom(1 << 20))), tmp_path)
    registry.add_blob(packed)
    registry.hold = threading.Event()
    with subprocess.Popen(UNPACKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(job_of(layer, registry.url))
        process.stdin.close()
        process.stdout.close()
        registry.hold.set()
        assert process.wait(20) != 0
    assert os.listdir(tmp_path) == []


def test_remover_removes_read_only_trees_and_follows_no_link(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    tree = tmp_path / "tree"
    deep = tree
    for _ in range(50):
        deep = deep / "d"
    deep.mkdir(parents=True)
    (deep / "link").symlink_to(outside)
    (tree / ".remove-1").write_text("in the way")
    (tree / "locked/inner").mkdir(parents=True)
    (tree / "locked/inner/f").touch()
    (tree / "locked").chmod(0)
    done = subprocess.run([*REMOVER, str(tree), str(tmp_path / "gone")], capture_output=True, check=False)
    assert json.loads(done.stdout) == {"ok": {}}
    assert [p.name for p in tmp_path.iterdir()] == ["outside"]
    assert (outside / "kept").exists()


@pytest.mark.parametrize("path", ["/", "relative/path", "/tmp/../etc/x", "/single"])
def test_remover_refuses_paths_nobody_can_mean(path):
    done = subprocess.run([*REMOVER, path], capture_output=True, check=False)
    assert json.loads(done.stdout)["error"]["code"] == "bad-config"


def test_remover_as_a_link_removes_the_link_only(tmp_path: Path):
    (tmp_path / "d").mkdir()
    (tmp_path / "l").symlink_to("d")
    subprocess.run([*REMOVER, str(tmp_path / "l")], check=True, capture_output=True)
    assert [p.name for p in tmp_path.iterdir()] == ["d"]
