import os

import pytest

from container.errors import ConfigError
from container.pods.launch import layers_of
from container.pods.users import User, read_text, resolve

PASSWD = "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:100::/home/web:/bin/sh\nbroken line\nnohome:x:7:8:::\n"
GROUP = "root:x:0:\nusers:x:100:web\nvideo:x:44:web,root\nwheel:x:10:root\n"


@pytest.mark.parametrize(
    ("text", "user"),
    [
        ("", User(0, 0, (44, 10), "/root")),
        ("root", User(0, 0, (44, 10), "/root")),
        ("web", User(1000, 100, (44,), "/home/web")),
        ("1000", User(1000, 100, (44,), "/home/web")),
        ("web:video", User(1000, 44, (), "/home/web")),
        ("1000:5", User(1000, 5, (), "/home/web")),
        ("4242", User(4242, 0, (), "/")),
        ("4242:4243", User(4242, 4243, (), "/")),
        (":video", User(0, 44, (), "/root")),
        ("nohome", User(7, 8, (), "/")),
    ],
)
def test_users_are_resolved_by_the_images_files(text, user):
    assert resolve(text, PASSWD, GROUP) == user


def test_without_files_numbers_still_work():
    assert resolve("", "", "") == User(0, 0, (), "/root")
    assert resolve("12:13", "", "") == User(12, 13, (), "/")


@pytest.mark.parametrize("text", ["nobody", "web:nogroup", "-1", "4294967295", "1000:99999999999", "\u0663"])
def test_what_names_nobody_is_refused(text):
    with pytest.raises(ConfigError):
        resolve(text, PASSWD, GROUP)


@pytest.fixture
def layers(tmp_path):
    top, bottom = tmp_path / "top", tmp_path / "bottom"
    for layer in (top, bottom):
        (layer / "etc").mkdir(parents=True)
    (bottom / "etc" / "passwd").write_text("bottom")
    return [top, bottom]


def test_the_topmost_layer_with_the_file_counts(layers):
    assert read_text(layers, "etc/passwd") == "bottom"
    (layers[0] / "etc" / "passwd").write_text("top")
    assert read_text(layers, "etc/passwd") == "top"
    assert read_text(layers, "etc/group") == ""


def test_a_link_never_leads_out_of_the_layer(layers, tmp_path):
    (tmp_path / "secret").write_text("secret")
    for target in ("/../secret", "../../secret", str(tmp_path / "secret")):
        path = layers[0] / "etc" / "passwd"
        path.unlink(missing_ok=True)
        path.symlink_to(target)
        assert "secret" not in read_text(layers, "etc/passwd")


def test_a_fifo_neither_blocks_nor_is_read(layers):
    os.mkfifo(layers[0] / "etc" / "passwd")
    assert read_text(layers, "etc/passwd") == ""


def test_a_huge_file_is_not_read_whole(layers):
    with open(layers[0] / "etc" / "passwd", "wb") as file:
        file.truncate(1 << 30)
    assert len(read_text(layers, "etc/passwd")) == 1 << 20


def test_layers_are_read_back_from_the_mount():
    options = [r"lowerdir=/a\:b:/c\,d:/e\\f", "upperdir=/u"]
    assert [str(path) for path in layers_of({"options": options})] == ["/a:b", "/c,d", "/e\\f"]
