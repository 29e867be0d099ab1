import subprocess
import sys
from pathlib import Path

import pytest

from blob.oci.image import ContainerConfig, ImageConfig, RootFs
from container.errors import ConfigError, ImageError, NotFoundError
from container.images.store import ImageStore, canonical

A, B, C = ("sha256:" + letter * 64 for letter in "abc")
L1, L2, L3 = ("sha256:" + digit * 64 for digit in "123")
TOP = "sha256:" + "9" * 64


def config(*layers: str) -> ImageConfig:
    return ImageConfig("amd64", "linux", ContainerConfig(cmd=("sh",)), RootFs(diff_ids=layers), created="then")


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    store = ImageStore(tmp_path / "images")
    for layer in (L1, L2, L3):
        store.layer_path(layer).mkdir()
    return store


def test_an_image_is_found_by_every_spelling(store):
    image = store.add("alpine:3", A, TOP, 12, config(L1))
    assert image.names == ("docker.io/library/alpine:3",)
    assert (image.size, image.created, image.layers, image.config.config.cmd) == (12, "then", (L1,), ("sh",))
    for text in ("alpine:3", "docker.io/library/alpine:3", A, "a" * 64, "aaaa", f"alpine@{TOP}"):
        assert store.inspect(text) == image


@pytest.mark.parametrize("text", ["alpine", "aaa", "nothing", f"busybox@{TOP}", "", "sha256:", "UPPER case"])
def test_what_is_not_there_is_not_found(store, text):
    store.add("alpine:3", A, TOP, 12, config(L1))
    with pytest.raises(NotFoundError, match="no image"):
        store.inspect(text)


def test_beginning_of_two_ids_is_refused(store):
    store.add("a", A, TOP, 1, config())
    store.add("b", "sha256:aaaa" + "0" * 60, TOP, 1, config())
    with pytest.raises(ConfigError, match="2 image ids"):
        store.inspect("aaaa")


def test_a_name_moves_and_the_old_image_stays_without_it(store):
    store.add("a", A, TOP, 1, config(L1))
    store.add("a", B, TOP, 1, config(L2))
    assert store.inspect("a").id == B
    assert store.inspect(A).names == ()
    assert [image.id for image in store.list()] == [B, A]


def test_manifest_digest_is_that_of_the_name(store):
    store.add("a", A, TOP, 1, config())
    store.add("b", A, L3, 1, config())
    assert [store.inspect(name).manifest_digest for name in "ab"] == [TOP, L3]


def test_removing_the_last_name_removes_image_and_own_layers(store):
    store.add("a", A, TOP, 1, config(L1, L2))
    store.add("b", B, TOP, 1, config(L2, L3))
    moved = store.remove("a")
    assert [path.name for path in moved] == [f".{'1' * 64}.removed"]
    assert [store.has_layer(layer) for layer in (L1, L2, L3)] == [False, True, True]
    with pytest.raises(NotFoundError):
        store.inspect(A)


def test_removing_one_of_two_names_removes_no_image(store):
    store.add("a", A, TOP, 1, config(L1))
    store.tag("a", "localhost/b:1")
    assert store.remove("a") == []
    assert store.inspect(A).names == ("localhost/b:1",)


def test_removing_by_id_removes_all_names(store):
    store.add("a", A, TOP, 1, config(L1))
    store.tag("a", "b")
    assert len(store.remove(A)) == 1
    assert store.list() == []


def test_layers_of_containers_stay(store):
    store.add("a", A, TOP, 1, config(L1))
    assert store.remove("a", {L1}) == []
    assert store.has_layer(L1)
    assert store.unused_layers({L1}) == [L2, L3]


def test_state_survives_a_new_process(store):
    image = store.add("a", A, TOP, 1, config(L1))
    assert ImageStore(store.directory).inspect("a") == image


_ADD = """
import sys
from pathlib import Path
from blob.oci.image import ImageConfig
from container.images.store import ImageStore
store = ImageStore(Path(sys.argv[1]))
for number in range(10):
    store.add(f"{sys.argv[2]}:{number}", "sha256:" + "a" * 64, "sha256:" + "9" * 64, 1, ImageConfig())
"""


def test_two_processes_lose_no_name(store):
    command = [sys.executable, "-c", _ADD, store.directory]
    processes = [subprocess.Popen([*command, name]) for name in ("x", "y")]
    assert [process.wait() for process in processes] == [0, 0]
    assert len(store.inspect(A).names) == 20


def test_a_newer_format_is_refused_with_a_hint(store):
    (store.directory / "names.json").write_text('{"version": 2, "other": true}')
    with pytest.raises(ImageError, match="newer version"):
        store.list()


def test_a_broken_record_is_named(store):
    store.add("a", A, TOP, 1, config())
    (store.directory / f"{'a' * 64}.json").write_text('{"version": 1')
    with pytest.raises(ImageError, match=r"aaa.json` is broken"):
        store.inspect("a")


def test_foreign_files_are_not_ours(store):
    (store.directory / "notes.json").write_text("mine")
    (store.layers / "notes").write_text("mine")
    assert store.list() == []
    assert store.unused_layers(()) == [L1, L2, L3]


def test_a_malformed_name_is_refused():
    with pytest.raises(ConfigError):
        canonical("a b")
