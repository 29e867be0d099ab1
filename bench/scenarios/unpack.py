"""Unpack one layer."""

import asyncio
import gzip
import hashlib
import io
import os
import random
import shutil
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench.measure import ContestantError, Row, Run, rows_of, take_turns
from bench.scenario import Context, Result, Scenario

_FILES = 30_000
_ROUNDS = 7
_WORDS = [random.Random(seed).randbytes(12).hex().encode() for seed in range(4096)]

#: What a layer's own process does (container.images.unpacker), with the archive read from a file.
_OURS = (
    "import sys; from container.images.layers import Layer, unpack; a = sys.argv\n"
    "f = open(a[1], 'rb'); fetch = lambda: iter(lambda: f.read(1 << 20), b'')\n"
    "unpack(Layer(a[2], int(a[3]), a[4], a[5]), fetch)"
)


@dataclass(frozen=True, slots=True)
class Archive:
    """A generated layer."""

    path: Path
    digest: str
    size: int
    diff_id: str


def measure(context: Context) -> Result:
    """Unpack the same archive with ours, bsdtar and GNU tar, into memory."""
    archive = _generate(context.data / "layer.tar.gz", max(300, round(_FILES * context.scale)))
    taken: dict[str, list[float]] = {}
    contestants = {"ours": _ours(context, archive, taken)}
    for name, words in (("bsdtar", ("-xpf",)), ("tar", ("--numeric-owner", "-xpzf"))):
        if shutil.which(name):
            contestants[name] = _extractor(context, archive, name, words, taken)
    samples, absent = asyncio.run(take_turns(contestants, context.rounds(_ROUNDS), warm_up=1))
    rounds = len(samples.get("ours", []))
    cpu = {name: values[-rounds:] for name, values in taken.items() if name in samples}
    rows: list[Row] = rows_of("unpack", "wall time", "s", samples, "ours") + rows_of(
        "unpack", "processor time", "s", cpu, "ours"
    )
    remarks = [f"{name}: {why}" for name, why in absent.items()]
    return Result(rows, [*remarks, f"archive: {archive.size / 2**20:.0f} MiB compressed"])


def _generate(path: Path, files: int) -> Archive:
    """Write an archive of `files` files in a few hundred directories; sizes and contents from a fixed seed."""
    dice = random.Random(7)
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number in range(files):
            if number % 100 == 0:
                tar.addfile(_entry(f"usr/lib/part{number // 100}", tarfile.DIRTYPE, 0o755))
            data = b" ".join(dice.choices(_WORDS, k=min(40_000, int(dice.lognormvariate(4.6, 1.4)))))
            entry = _entry(f"usr/lib/part{number // 100}/file{number}", tarfile.REGTYPE, 0o644)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
            if number % 20 == 0:
                link = _entry(f"usr/lib/part{number // 100}/link{number}", tarfile.SYMTYPE, 0o777)
                link.linkname = f"file{number}"
                tar.addfile(link)
    packed = gzip.compress(raw.getbuffer(), 6, mtime=0)
    path.write_bytes(packed)
    return Archive(path, _digest(packed), len(packed), _digest(raw.getbuffer()))


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = kind, mode, 1_700_000_000
    return entry


def _digest(data: bytes | memoryview) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _ours(context: Context, archive: Archive, taken: dict[str, list[float]]) -> Run:
    target = context.data / "ours"
    values = [str(archive.path), archive.digest, str(archive.size), archive.diff_id, str(target)]
    return _timed("ours", [sys.executable, "-c", _OURS, *values], target, taken)


def _extractor(
    context: Context, archive: Archive, name: str, words: tuple[str, ...], taken: dict[str, list[float]]
) -> Run:
    target = context.data / name
    return _timed(name, [name, *words, str(archive.path), "-C", str(target)], target, taken)


def _timed(name: str, argv: list[str], target: Path, taken: dict[str, list[float]]) -> Run:
    """Run `argv` into a fresh `target`; its processor time goes into `taken`."""

    async def run() -> float:
        target.mkdir()
        try:
            wall, cpu = _run(argv)
        finally:
            shutil.rmtree(target, ignore_errors=True)
        taken.setdefault(name, []).append(cpu)
        return wall

    return run


def _run(argv: list[str]) -> tuple[float, float]:
    """Return wall and processor seconds of a program."""
    begun = time.perf_counter()
    pid = os.posix_spawnp(argv[0], argv, os.environ)
    _, status, usage = os.wait4(pid, 0)
    wall = time.perf_counter() - begun
    if status:
        raise ContestantError(f"`{argv[0]}` failed")
    return wall, usage.ru_utime + usage.ru_stime


SCENARIO = Scenario(
    "unpack",
    "Unpack a generated `tar.gz` of 30,000 files (and directories and symbolic links) from memory into memory: one "
    "process of ours as it unpacks a layer, `bsdtar -xpf` and GNU `tar -xpzf`. Start of the process included. Ours "
    "also checks the digest of the compressed bytes and that of the tar inside, which the others do not.",
    measure,
)
