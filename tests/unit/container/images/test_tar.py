import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container.images import tar
from container.images.bytestream import ByteStream, TarError
from container.images.tar import Entry, TarReader
from unit.container.images.archives import directory, file, hard_link, make_tar, member, pieces, symlink


def read(data: bytes, step: int = 65536) -> list[tuple[Entry, bytes]]:
    reader = TarReader(ByteStream(pieces(data, step)))
    return [(entry, b"".join(reader.content(entry))) for entry in reader]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("step", [1, 511, 512, 4096, 1 << 20])
def test_all_formats_read_alike_however_the_bytes_arrive(form, step):
    data = make_tar(
        directory("d", mode=0o1777),
        file("d/a", b"x" * 700, mode=0o4755, uid=7, gid=8),
        symlink("d/s", "a"),
        hard_link("d/h", "d/a"),
        member("d/c", tarfile.CHRTYPE, devmajor=1, devminor=3),
        form=form,
    )
    entries = read(data, step)
    assert [(e.kind, e.name.rstrip(b"/")) for e, _ in entries] == [
        (tar.DIRECTORY, b"d"),
        (tar.FILE, b"d/a"),
        (tar.SYMLINK, b"d/s"),
        (tar.LINK, b"d/h"),
        (tar.CHAR, b"d/c"),
    ]
    entry, content = entries[1]
    assert (entry.mode, entry.uid, entry.gid, content) == (0o4755, 7, 8, b"x" * 700)
    assert entry.mtime_ns == 1_600_000_000 * 10**9
    assert entries[4][0].device == (1, 3)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_targets_are_whole(form):
    long = "/".join(["n" * 90] * 20)
    entries = read(make_tar(file(long), symlink("s", long), form=form))
    assert entries[0][0].name.decode() == long
    assert entries[1][0].target.decode() == long


def test_ustar_prefix_is_part_of_the_name():
    name = "p" * 120 + "/" + "n" * 90
    assert read(make_tar(file(name), form=tarfile.USTAR_FORMAT))[0][0].name.decode() == name


def test_pax_records_override_the_header():
    xattrs = {"SCHILY.xattr.user.a": "b", "mtime": "12.000000345", "uid": "3000000", "path": "new/é"}
    ((entry, _),) = read(make_tar((member("old", pax_headers=xattrs), b"")))
    assert entry.name.decode() == "new/é"
    assert (entry.mtime_ns, entry.uid, entry.xattrs) == (12_000_000_345, 3_000_000, {b"user.a": b"b"})


def test_global_pax_records_apply_to_all_that_follows():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", pax_headers={"SCHILY.xattr.user.g": "1"}) as archive:
        archive.addfile(member("a"))
        archive.addfile(member("b"))
    assert [e.xattrs for e, _ in read(buffer.getvalue())] == [{b"user.g": b"1"}] * 2


def test_base_256_numbers_are_understood():
    ((entry, _),) = read(make_tar(file("a", uid=2**31), form=tarfile.GNU_FORMAT))
    assert entry.uid == 2**31


@pytest.mark.parametrize("form", ["gnu", "pax --sparse-version=0.0", "pax --sparse-version=0.1", "pax"])
def test_sparse_files_of_gnu_tar_have_size_and_extents(tmp_path: Path, form):
    with (tmp_path / "holes").open("wb") as file_:
        for at in range(0, 40 * 65536, 65536):
            file_.seek(at)
            file_.write(b"data%d" % at)
        file_.truncate(5_000_000)
    kind, *options = form.split()
    command = ["tar", "-C", tmp_path, "-cSf", "-", f"--format={kind}", *options, "holes"]
    made = subprocess.run(command, check=True, capture_output=True).stdout
    ((entry, content),) = read(made)
    rebuilt = bytearray(entry.size)
    position = 0
    for offset, length in entry.extents or []:
        rebuilt[offset : offset + length] = content[position : position + length]
        position += length
    assert entry.name == b"holes"
    assert bytes(rebuilt) == (tmp_path / "holes").read_bytes()
    assert len(content) < 1_000_000


def test_sparse_map_that_lies_is_refused():
    records = {"GNU.sparse.map": "0,9", "GNU.sparse.size": "4", "GNU.sparse.name": "a"}
    with pytest.raises(TarError, match="sparse map does not match"):
        read(make_tar((member("a", pax_headers=records), b"x" * 9)))


def test_vendor_records_are_passed_over():
    made = make_tar((member("label", b"V"), b""), file("a", b"1"), form=tarfile.GNU_FORMAT)
    assert [e.name for e, _ in read(made)] == [b"a"]


def test_end_of_stream_without_end_blocks_is_an_end():
    made = make_tar(file("a", b"1"))[:1024]
    assert [e.name for e, _ in read(made)] == [b"a"]


@pytest.mark.parametrize("cut", [1, 300, 511, 513, 700, 1023, 1025])
def test_torn_archive_is_an_error_with_its_offset(cut):
    made = make_tar(file("a", b"x" * 400), file("b", b"y" * 400))
    with pytest.raises(TarError) as caught:
        read(made[:cut])
    assert caught.value.offset <= cut


@pytest.mark.parametrize("at", [0, 100, 124, 150, 156])
def test_flipped_header_bit_is_noticed(at):
    made = bytearray(make_tar(file("a", b"x")))
    made[at] ^= 0x10
    with pytest.raises(TarError, match="checksum"):
        read(bytes(made))


@pytest.mark.parametrize(
    "records",
    [b"5 a=", b"99 a=b\n", b"a=b\n", b"0 a=b\n", b"6 a=bc", b"-3 =\n", b"7 path\n", b"9 size=x\n"],
)
def test_malformed_pax_records_are_refused(records):
    header = member("x", tarfile.XHDTYPE)
    header.size = len(records)
    made = header.tobuf(tarfile.USTAR_FORMAT) + records.ljust(512, b"\0") + make_tar(file("a", b"1"))
    with pytest.raises(TarError):
        read(made)


def test_negative_size_is_refused():
    block = bytearray(member("a").tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"\xff" * 12
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    with pytest.raises(TarError, match="negative"):
        read(bytes(block))


def test_times_may_be_negative_and_fractional():
    assert tar.parse_time(b"-1.5", 0) == -1_500_000_000
    assert tar.parse_time(b"1700000000.123456789123", 0) == 1_700_000_000_123_456_789


@given(st.binary(max_size=3000))
def test_garbage_is_read_or_refused_but_nothing_else(data):
    try:
        read(data)
    except TarError:
        pass


@given(st.data())
def test_damaged_archive_is_read_or_refused_but_nothing_else(data):
    made = bytearray(make_tar(directory("d"), file("d/" + "n" * 150, b"x" * 600), symlink("s", "t" * 200)))
    for at in data.draw(st.lists(st.integers(0, len(made) - 1), max_size=4)):
        made[at] = data.draw(st.integers(0, 255))
    try:
        read(bytes(made), 512)
    except TarError:
        pass


@given(st.lists(st.tuples(st.text("abc/é. ", min_size=1, max_size=300), st.binary(max_size=1500)), max_size=6))
def test_what_tarfile_writes_is_what_we_read(files):
    made = make_tar(*(file(name, content) for name, content in files))
    got = [(e.name.decode(), content) for e, content in read(made, 700)]
    with tarfile.open(fileobj=io.BytesIO(made)) as archive:
        expected = [(i.name, (archive.extractfile(i) or io.BytesIO()).read()) for i in archive]
    assert [(os.path.normpath(n), c) for n, c in got] == [(os.path.normpath(n), c) for n, c in expected]
