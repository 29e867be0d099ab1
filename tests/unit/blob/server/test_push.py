"""The distribution API of our own repositories, as any client speaks it."""

import asyncio
import gzip
import hashlib
import io
import json
import socket
from collections.abc import Callable

import pytest

from unit.blob.cache.test_blobs import file_size_limit
from unit.blob.conftest import Blob
from unit.blob.fakeregistry import OCI_INDEX, OCI_MANIFEST, FakeRegistry, make_image, sha256

REPO = "/v2/my/repo"


async def push_blob(blob: Blob, data: bytes, repo: str = REPO) -> str:
    status, answer, _ = await blob.send("POST", f"{repo}/blobs/uploads/?digest={sha256(data)}", data=data)
    assert (status, answer.headers["Location"]) == (201, f"{repo}/blobs/{sha256(data)}")
    return sha256(data)


async def push_image(blob: Blob, layer: bytes, tag: str = "1", repo: str = REPO, **extra: object) -> tuple[str, bytes]:
    for data in (layer, b"{}"):
        await push_blob(blob, data, repo)
    raw = make_image(layer, **extra)
    headers = {"Content-Type": OCI_MANIFEST}
    status, answer, body = await blob.send("PUT", f"{repo}/manifests/{tag}", data=raw, headers=headers)
    assert status == 201, body
    assert answer.headers["Docker-Content-Digest"] == sha256(raw)
    return sha256(raw), raw


async def start_upload(blob: Blob) -> str:
    status, answer, _ = await blob.send("POST", f"{REPO}/blobs/uploads/")
    assert (status, answer.headers["Range"]) == (202, "0-0")
    return answer.headers["Location"]


def error_of(body: bytes) -> str:
    return json.loads(body)["errors"][0]["code"]


async def test_the_api_says_what_it_is(blob: Blob) -> None:
    for path in ("/v2/", "/v2"):
        status, answer, _ = await blob.get(path)
        assert (status, answer.headers["Docker-Distribution-Api-Version"]) == (200, "registry/2.0")


async def test_an_image_is_pulled_as_it_was_pushed(blob: Blob) -> None:
    digest, raw = await push_image(blob, b"layer")
    for reference in ("1", digest):
        status, answer, body = await blob.get(f"{REPO}/manifests/{reference}")
        assert (status, body, answer.headers["Content-Type"]) == (200, raw, OCI_MANIFEST)
    status, answer, body = await blob.get(f"{REPO}/blobs/{sha256(b'layer')}")
    assert (status, body) == (200, b"layer")
    assert answer.headers["Docker-Content-Digest"] == sha256(b"layer")
    _, head, _ = await blob.send("HEAD", f"{REPO}/blobs/{sha256(b'layer')}")
    assert (head.status, head.headers["Content-Length"]) == (200, "5")


async def test_a_client_that_would_like_it_encoded_gets_it_plain(blob: Blob) -> None:
    data = b"compress me " * 10_000
    digest = await push_blob(blob, data)
    _, answer, body = await blob.get(f"{REPO}/blobs/{digest}", headers={"Accept-Encoding": "gzip, br, zstd"})
    assert "Content-Encoding" not in answer.headers
    assert body == data


@pytest.mark.parametrize("size", [10, 200_000])
async def test_ranges_of_a_stored_blob(blob: Blob, size: int) -> None:
    data = bytes(range(250)) * (size // 250 + 1)
    path = f"{REPO}/blobs/{await push_blob(blob, data)}"
    status, answer, body = await blob.get(path, headers={"Range": "bytes=3-7"})
    assert (status, body) == (206, data[3:8])
    assert answer.headers["Content-Range"] == f"bytes 3-7/{len(data)}"
    assert (await blob.get(path, headers={"Range": "bytes=-4"}))[2] == data[-4:]
    status, answer, body = await blob.get(path, headers={"Range": f"bytes={len(data)}-"})
    assert (status, answer.headers["Content-Range"]) == (416, f"bytes */{len(data)}")


async def test_an_upload_in_pieces(blob: Blob) -> None:
    data = b"0123456789" * 1000
    where = await start_upload(blob)
    for start in range(0, len(data), 4000):
        piece = data[start : start + 4000]
        headers = {"Content-Range": f"{start}-{start + len(piece) - 1}"}
        status, answer, _ = await blob.send("PATCH", where, data=piece, headers=headers)
        assert (status, answer.headers["Range"]) == (202, f"0-{start + len(piece) - 1}")
    status, answer, _ = await blob.get(where)
    assert (status, answer.headers["Range"]) == (204, f"0-{len(data) - 1}")
    status, _, _ = await blob.send("PUT", f"{where}?digest={sha256(data)}")
    assert status == 201
    assert (await blob.get(f"{REPO}/blobs/{sha256(data)}"))[2] == data
    assert (await blob.get(where))[0] == 404


async def test_an_upload_whose_last_piece_comes_with_its_end(blob: Blob) -> None:
    where = await start_upload(blob)
    await blob.send("PATCH", where, data=b"first ")
    status, _, _ = await blob.send("PUT", f"{where}?digest={sha256(b'first last')}", data=b"last")
    assert status == 201


async def test_sha512_and_empty_blobs_are_blobs_too(blob: Blob) -> None:
    for data, digest in ((b"x", "sha512:" + hashlib.sha512(b"x").hexdigest()), (b"", sha256(b""))):
        status, _, _ = await blob.send("PUT", f"{await start_upload(blob)}?digest={digest}", data=data)
        assert status == 201
        assert (await blob.get(f"{REPO}/blobs/{digest}"))[2] == data


async def test_a_piece_that_does_not_continue_is_refused_and_told_where(blob: Blob) -> None:
    where = await start_upload(blob)
    await blob.send("PATCH", where, data=b"12345")
    status, answer, body = await blob.send("PATCH", where, data=b"9", headers={"Content-Range": "8-8"})
    assert (status, answer.headers["Range"], error_of(body)) == (416, "0-4", "BLOB_UPLOAD_INVALID")


async def test_wrong_bytes_are_refused_and_leave_nothing(blob: Blob) -> None:
    where = await start_upload(blob)
    status, _, body = await blob.send("PUT", f"{where}?digest={sha256(b'right')}", data=b"wrong")
    assert (status, error_of(body)) == (400, "DIGEST_INVALID")
    assert (await blob.send("HEAD", f"{REPO}/blobs/{sha256(b'right')}"))[0] == 404
    assert blob.leftovers() == []


@pytest.mark.parametrize("in_pieces", [False, True])
async def test_a_push_to_a_full_disk_is_an_error_and_leaves_nothing(blob: Blob, in_pieces: bool) -> None:
    data = bytes(900_000)
    where = await start_upload(blob) if in_pieces else f"{REPO}/blobs/uploads/?digest={sha256(data)}"
    with file_size_limit(500_000):
        status, _, body = await blob.send("PATCH" if in_pieces else "POST", where, data=data)
    assert status == 507
    assert json.loads(body)["errors"][0]["detail"] == {"hint": "free some space"}
    assert blob.leftovers() == []


async def test_a_cancelled_upload_leaves_nothing(blob: Blob) -> None:
    where = await start_upload(blob)
    await blob.send("PATCH", where, data=b"12345")
    assert (await blob.send("DELETE", where))[0] == 204
    assert (await blob.send("PATCH", where, data=b"6"))[0] == 404
    assert blob.leftovers() == []


async def test_a_client_that_leaves_in_the_middle_may_continue(blob: Blob) -> None:
    where = await start_upload(blob)
    host, _, port = blob.url.removeprefix("http://").partition(":")
    request = f"PATCH {where} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n12345"
    with socket.create_connection((host, int(port))) as client:
        client.sendall(request.encode())
        for _ in range(1000):
            if (await blob.get(where))[1].headers["Range"] == "0-4":
                break
            await asyncio.sleep(0.005)
    async with asyncio.timeout(5):
        status, _, _ = await blob.send("PATCH", where, data=b"6", headers={"Content-Range": "5-5"})
    assert status == 202
    assert (await blob.send("PUT", f"{where}?digest={sha256(b'123456')}"))[0] == 201


async def test_a_blob_is_mounted_from_another_repository(blob: Blob) -> None:
    digest = await push_blob(blob, b"shared")
    status, _, _ = await blob.send("POST", f"/v2/other/blobs/uploads/?mount={digest}&from=my/repo")
    assert status == 201
    assert (await blob.get(f"/v2/other/blobs/{digest}"))[2] == b"shared"
    status, answer, _ = await blob.send("POST", f"/v2/other/blobs/uploads/?mount={sha256(b'no')}&from=my/repo")
    assert (status, "Location" in answer.headers) == (202, True)


async def test_a_manifest_that_names_what_is_missing_is_refused(blob: Blob) -> None:
    await push_blob(blob, b"{}")
    status, _, body = await blob.send("PUT", f"{REPO}/manifests/1", data=make_image(b"missing"))
    assert (status, error_of(body)) == (400, "MANIFEST_BLOB_UNKNOWN")
    entry = {"mediaType": OCI_MANIFEST, "digest": sha256(b"no"), "size": 2}
    index = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    status, _, body = await blob.send("PUT", f"{REPO}/manifests/1", data=index)
    assert (status, error_of(body)) == (400, "MANIFEST_BLOB_UNKNOWN")


@pytest.mark.parametrize(
    ("reference", "raw", "status", "code"),
    [
        (sha256(b"other"), make_image(b"layer"), 400, "DIGEST_INVALID"),
        ("1", b"{}", 400, "MANIFEST_INVALID"),
        ("1", b" " * (9 << 20), 413, "SIZE_INVALID"),
        ("-bad", make_image(b"layer"), 400, "NAME_INVALID"),
        ("sha256:baddigeststring", make_image(b"layer"), 400, "DIGEST_INVALID"),
    ],
)
async def test_a_broken_manifest_is_refused(blob: Blob, reference: str, raw: bytes, status: int, code: str) -> None:
    await push_image(blob, b"layer", "ok")
    found, _, body = await blob.send("PUT", f"{REPO}/manifests/{reference}", data=io.BytesIO(raw))
    assert (found, error_of(body)) == (status, code)
    assert json.loads((await blob.get(f"{REPO}/tags/list"))[2])["tags"] == ["ok"]


async def test_an_encoded_body_is_refused(blob: Blob) -> None:
    where = await start_upload(blob)
    packed = gzip.compress(b"x")
    status, _, body = await blob.send("PATCH", where, data=packed, headers={"Content-Encoding": "gzip"})
    assert (status, error_of(body)) == (405, "UNSUPPORTED")


async def test_tags_are_listed_in_pages(blob: Blob) -> None:
    for tag in ("c", "a", "b"):
        await push_image(blob, b"layer", tag)
    assert json.loads((await blob.get(f"{REPO}/tags/list"))[2]) == {"name": "my/repo", "tags": ["a", "b", "c"]}
    _, answer, body = await blob.get(f"{REPO}/tags/list?n=2")
    assert json.loads(body)["tags"] == ["a", "b"]
    assert answer.headers["Link"] == f'<{REPO}/tags/list?n=2&last=b>; rel="next"'
    _, answer, body = await blob.get(f"{REPO}/tags/list?n=2&last=b")
    assert (json.loads(body)["tags"], "Link" in answer.headers) == (["c"], False)
    _, answer, body = await blob.get(f"{REPO}/tags/list?n=0")
    assert (json.loads(body)["tags"], "Link" in answer.headers) == ([], False)
    assert (await blob.get(f"{REPO}/tags/list?n=x"))[0] == 400


async def test_deleting_a_tag_keeps_the_manifest_and_deleting_that_takes_the_tags(blob: Blob) -> None:
    digest, _ = await push_image(blob, b"layer", "1")
    await push_image(blob, b"layer", "2")
    assert (await blob.send("DELETE", f"{REPO}/manifests/1"))[0] == 202
    assert (await blob.get(f"{REPO}/manifests/1"))[0] == 404
    assert (await blob.get(f"{REPO}/manifests/{digest}"))[0] == 200
    assert (await blob.send("DELETE", f"{REPO}/manifests/{digest}"))[0] == 202
    assert (await blob.get(f"{REPO}/manifests/2"))[0] == 404
    assert (await blob.send("DELETE", f"{REPO}/manifests/{digest}"))[0] == 404


async def test_a_deleted_blob_is_gone_here_but_not_elsewhere(blob: Blob) -> None:
    digest = await push_blob(blob, b"shared")
    await push_blob(blob, b"shared", "/v2/other")
    assert (await blob.send("DELETE", f"{REPO}/blobs/{digest}"))[0] == 202
    await push_blob(blob, b"something else")
    assert (await blob.get(f"{REPO}/blobs/{digest}"))[0] == 404
    assert (await blob.get(f"/v2/other/blobs/{digest}"))[2] == b"shared"
    assert (await blob.send("DELETE", f"/v2/other/blobs/{digest}"))[0] == 202
    stats = json.loads((await blob.get("/api/v1/cache/stats"))[2])
    assert stats == {"total_blobs": 1, "total_size_bytes": len(b"something else")}


async def test_referrers_list_what_names_a_subject(blob: Blob) -> None:
    subject, raw = await push_image(blob, b"layer")
    descriptor = {"mediaType": OCI_MANIFEST, "digest": subject, "size": len(raw)}
    signature, _ = await push_image(
        blob, b"sig", "s", subject=descriptor, artifactType="application/x.sig", annotations={"a": "b"}
    )
    status, answer, body = await blob.get(f"{REPO}/referrers/{subject}")
    (entry,) = json.loads(body)["manifests"]
    assert (status, answer.headers["Content-Type"]) == (200, OCI_INDEX)
    assert (entry["digest"], entry["artifactType"], entry["annotations"]) == (
        signature,
        "application/x.sig",
        {"a": "b"},
    )
    _, answer, body = await blob.get(f"{REPO}/referrers/{subject}?artifactType=other")
    assert (json.loads(body)["manifests"], answer.headers["OCI-Filters-Applied"]) == ([], "artifactType")


async def test_referrers_of_nothing_are_none_and_of_nonsense_an_error(blob: Blob) -> None:
    status, _, body = await blob.get(f"/v2/never/heard/referrers/{sha256(b'x')}")
    assert (status, json.loads(body)["manifests"]) == (200, [])
    assert (await blob.get(f"{REPO}/referrers/sha256:x"))[0] == 400


async def test_upstreams_cannot_be_pushed_to(blob: Blob) -> None:
    for method, path in (
        ("POST", "/v2/up.test/a/blobs/uploads/"),
        ("POST", "/v2/a/blobs/uploads/?ns=up.test"),
        ("PUT", "/v2/up.test/a/manifests/1"),
        ("DELETE", "/v2/up.test/a/manifests/1"),
        ("DELETE", f"/v2/up.test/a/blobs/{sha256(b'x')}"),
    ):
        status, _, body = await blob.send(method, path)
        assert (status, error_of(body)) == (405, "UNSUPPORTED")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/manifests/x", 404),
        ("/v2/blobs/x", 404),
        ("/v2//manifests/x", 404),
        ("/v2/x/blobs//etc/passwd", 404),
        ("/v2/x/blobs/../../../etc/passwd", 404),
        ("/v2/x/blobs/..%2f..%2fetc%2fpasswd", 400),
        ("/v2/x/blobs/sha256:baddigeststring", 400),
        ("/v2/x/manifests/..", 400),
        ("/v2/../x/manifests/1", 400),
        ("/v2/X/manifests/1", 400),
        ("/v2/" + "x" * 5000 + "/manifests/1", 400),
        ("/v2/_catalog", 404),
        ("/v2/never/heard/manifests/1", 404),
        (f"/v2/never/heard/manifests/{sha256(b'x')}", 404),
        (f"/v2/never/heard/blobs/{sha256(b'x')}", 404),
    ],
)
async def test_strange_paths_are_answered_with_an_error_of_the_api(blob: Blob, path: str, status: int) -> None:
    host, _, port = blob.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert int(head.split()[1]) == status
    assert error_of(body).isupper()


async def test_an_encoded_colon_is_a_colon_and_a_doubled_prefix_one(blob: Blob) -> None:
    digest = await push_blob(blob, b"x")
    host, _, port = blob.url.removeprefix("http://").partition(":")
    for path in (f"{REPO}/blobs/{digest.replace(':', '%3A')}", f"/v2{REPO}/blobs/{digest}"):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_a_wrong_method_says_which_are_right(blob: Blob) -> None:
    status, answer, body = await blob.send("POST", f"{REPO}/tags/list")
    assert (status, answer.headers["Allow"], error_of(body)) == (405, "GET", "UNSUPPORTED")


@pytest.fixture
async def hub_blob(start_blob: Callable[..., object], upstream: FakeRegistry) -> Blob:
    return await start_blob({"docker.io": upstream.url})  # type: ignore[misc]


async def test_a_name_of_nobody_is_docker_hubs_until_it_is_pushed_here(hub_blob: Blob, upstream: FakeRegistry) -> None:
    theirs = make_image(b"theirs")
    upstream.add_manifest("library/nginx", "1", theirs)
    assert (await hub_blob.get("/v2/nginx/manifests/1"))[2] == theirs
    _, ours = await push_image(hub_blob, b"ours", "1", "/v2/nginx")
    assert (await hub_blob.get("/v2/nginx/manifests/1"))[2] == ours
    assert (await hub_blob.get("/v2/docker.io/library/nginx/manifests/1"))[2] == theirs


async def test_a_push_is_not_told_that_docker_hub_has_the_blob(hub_blob: Blob, upstream: FakeRegistry) -> None:
    digest = upstream.add_blob(b"layer")
    assert (await hub_blob.send("HEAD", f"/v2/nginx/blobs/{digest}"))[0] == 404
    assert (await hub_blob.send("HEAD", f"/v2/docker.io/library/nginx/blobs/{digest}"))[0] == 200
    await hub_blob.get(f"/v2/docker.io/library/nginx/blobs/{digest}")
    # Now it is here, so the client may skip it, and the manifest is taken.
    await push_blob(hub_blob, b"{}", "/v2/nginx")
    status, _, _ = await hub_blob.send("PUT", "/v2/nginx/manifests/1", data=make_image(b"layer"))
    assert status == 201
    assert (await hub_blob.get(f"/v2/nginx/blobs/{digest}"))[2] == b"layer"


async def test_a_namespace_selects_the_upstream(blob: Blob, upstream: FakeRegistry) -> None:
    upstream.add_manifest("a/b", "1", make_image(b"x"))
    assert (await blob.get("/v2/a/b/manifests/1?ns=up.test"))[0] == 200
    assert (await blob.get("/v2/a/b/manifests/1?ns=127.0.0.1:22"))[0] == 404


async def test_operators_are_answered(blob: Blob) -> None:
    await push_image(blob, b"layer")
    assert (await blob.get("/health"))[2] == b"ok"
    assert json.loads((await blob.get("/api/v1/cache/stats"))[2]) == {"total_blobs": 2, "total_size_bytes": 7}
    assert b'blob_http_answers_total{method="PUT",status="201"} 1.0' in (await blob.get("/metrics"))[2]
