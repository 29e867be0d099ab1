"""Archives made on the spot."""

import io
import json
import tarfile
from pathlib import Path

from unit.blob.fakeregistry import OCI_INDEX, OCI_MANIFEST, make_image, sha256


def tar_bytes(files: dict[str, bytes | str]) -> bytes:
    """Return a tar; a `str` value is the target of a symbolic link."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def layout_files(*images: tuple[str, bytes, list[bytes]], config: bytes = b"{}") -> dict[str, bytes | str]:
    """Return the files of an OCI layout with images given as name, manifest, blobs."""
    files: dict[str, bytes | str] = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
    entries = []
    for name, manifest, blobs in images:
        for blob in (manifest, config, *blobs):
            files["blobs/sha256/" + sha256(blob).removeprefix("sha256:")] = blob
        kind = OCI_INDEX if b'"manifests"' in manifest else OCI_MANIFEST
        entries.append(
            {
                "mediaType": kind,
                "digest": sha256(manifest),
                "size": len(manifest),
                "annotations": {"org.opencontainers.image.ref.name": name},
            }
        )
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    return files


def simple_layout(name: str = "x", layer: bytes = b"layer") -> dict[str, bytes | str]:
    return layout_files((name, make_image(layer), [layer]))


def write_files(files: dict[str, bytes | str], directory: Path) -> Path:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        assert isinstance(content, bytes)
        path.write_bytes(content)
    return directory
