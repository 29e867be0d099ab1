import stat

import pytest

from container.errors import ImageError
from container.images import snapshot
from container.images.snapshot import RootFS, mount_entry
from container.images.store import ImageStore
from unit.container.images.test_store import L1, L2, TOP, A, config


@pytest.fixture
def store(tmp_path):
    return ImageStore(tmp_path / "images")


def test_topmost_layer_comes_first(store, tmp_path):
    for layer in (L1, L2):
        store.layer_path(layer).mkdir()
    store.layer_path(L2).chmod(0o1755)
    image = store.add("a", A, TOP, 1, config(L1, L2))
    rootfs = snapshot.prepare(store, image, tmp_path / "c")
    assert rootfs.lowerdirs == [str(store.layer_path(L2)), str(store.layer_path(L1))]
    assert stat.S_IMODE((tmp_path / "c/upper").stat().st_mode) == 0o1755
    assert (tmp_path / "c/work").is_dir()


def test_a_layer_named_twice_is_mounted_once(store, tmp_path):
    store.layer_path(L1).mkdir()
    image = store.add("a", A, TOP, 1, config(L1, L1))
    assert len(snapshot.prepare(store, image, tmp_path / "c").lowerdirs) == 1


def test_image_from_scratch_has_an_empty_directory_below(store, tmp_path):
    rootfs = snapshot.prepare(store, store.add("a", A, TOP, 1, config()), tmp_path / "c")
    assert rootfs.lowerdirs == [str(tmp_path / "c/lower")]


def test_a_layer_that_is_gone_is_an_image_error(store, tmp_path):
    image = store.add("a", A, TOP, 1, config(L1))
    with pytest.raises(ImageError, match="gone"):
        snapshot.prepare(store, image, tmp_path / "c")


def test_mount_entry_is_the_first_mount_of_the_bundle():
    entry = mount_entry(RootFS(["/a:b", "/c,d"], "/u\\p", "/w"), rootless=True)
    options = [r"lowerdir=/a\:b:/c\,d", r"upperdir=/u\\p", "workdir=/w", "userxattr"]
    assert entry == {"destination": "/", "type": "overlay", "source": "overlay", "options": options}
    assert "userxattr" not in mount_entry(RootFS(["/a"], "/u", "/w"), rootless=False)["options"]
