import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from blob.errors import DeniedError, UpstreamError
from blob.upstream.auth import Authenticator, Challenge, may_ask_token, parse_challenges

REALM = "https://auth.docker.io/token"
BEARER = f'Bearer realm="{REALM}",service="registry.docker.io",scope="repository:library/x:pull,push"'


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", []),
        ("Basic", [Challenge("basic")]),
        ('Basic realm="a, b"', [Challenge("basic", {"realm": "a, b"})]),
        (
            BEARER,
            [
                Challenge(
                    "bearer",
                    {"realm": REALM, "service": "registry.docker.io", "scope": "repository:library/x:pull,push"},
                )
            ],
        ),
        (
            'Bearer realm="https://a/t" , service=plain, Basic realm="b"',
            [Challenge("bearer", {"realm": "https://a/t", "service": "plain"}), Challenge("basic", {"realm": "b"})],
        ),
        (r'Basic realm="say \"hi\", Bearer realm=x"', [Challenge("basic", {"realm": 'say "hi", Bearer realm=x'})]),
        ('BEARER Realm="x"', [Challenge("bearer", {"realm": "x"})]),
        ('Bearer realm="unclosed', [Challenge("bearer")]),
    ],
)
def test_commas_and_quotes_belong_to_values(header: str, expected: list[Challenge]) -> None:
    assert parse_challenges(header) == expected


@given(st.text())
def test_no_header_breaks_the_parser(header: str) -> None:
    for challenge in parse_challenges(header):
        assert challenge.scheme == challenge.scheme.lower()


@pytest.mark.parametrize(
    ("registry", "realm", "allowed"),
    [
        ("https://registry-1.docker.io", "https://auth.docker.io/token", True),
        ("https://ghcr.io", "https://ghcr.io/token", True),
        ("https://ghcr.io", "https://auth.ghcr.io/token", True),
        ("https://registry.gitlab.com", "https://gitlab.com/jwt/auth", True),
        ("https://ghcr.io", "https://evil.io/token", False),
        ("https://registry-1.docker.io", "https://docker.io.evil.com/token", False),
        ("https://registry-1.docker.io", "https://evildocker.io/token", False),
        ("https://registry-1.docker.io", "http://auth.docker.io/token", False),
        ("https://registry-1.docker.io", "https://169.254.169.254/latest", False),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5001/token", True),
        ("http://127.0.0.1:5000", "http://127.0.0.2/token", False),
        ("https://10.0.0.1", "https://9.0.0.1/token", False),
        ("https://a.org", "https://tokens.net/t", False),
        ("https://a.org", "file:///etc/passwd", False),
        ("https://a.org", "", False),
    ],
)
def test_only_the_registrys_own_domain_hands_out_tokens(registry: str, realm: str, allowed: bool) -> None:
    assert may_ask_token(URL(registry), URL(realm)) is allowed


def test_the_configuration_may_allow_another_host() -> None:
    assert may_ask_token(URL("https://a.org"), URL("https://tokens.net/t"), ("tokens.net",))


class Service:
    """A token service in the same process: what it was asked, and what it answers."""

    def __init__(self, status: int = 200, body: bytes = b'{"token":"t"}') -> None:
        self.status, self.body = status, body
        self.asked: list[tuple[URL, dict[str, str]]] = []

    async def __call__(self, url: URL, headers: dict[str, str]) -> tuple[int, bytes]:
        self.asked.append((url, headers))
        await asyncio.sleep(0)
        return self.status, self.body


def authenticator(service: Service, credentials: tuple[str, str] | None = None) -> Authenticator:
    return Authenticator(URL("https://registry-1.docker.io"), service, credentials)


async def test_a_token_is_asked_for_once_however_many_wait() -> None:
    service = Service()
    auth = authenticator(service)
    answers = await asyncio.gather(*(auth.answer(BEARER, "s", "") for _ in range(20)))
    assert set(answers) == {"Bearer t"}
    assert len(service.asked) == 1
    assert auth.header("s") == "Bearer t"
    assert service.asked[0][0].query["scope"] == "repository:library/x:pull,push"


async def test_a_refused_token_is_replaced() -> None:
    service = Service()
    auth = authenticator(service)
    refused = await auth.answer(BEARER, "s", "")
    service.body = b'{"access_token":"new"}'
    assert await auth.answer(BEARER, "s", refused) == "Bearer new"


async def test_a_token_is_not_used_for_another_scope() -> None:
    auth = authenticator(Service())
    await auth.answer(BEARER, "repository:a:pull", "")
    assert auth.header("repository:b:pull") == ""


async def test_credentials_go_to_the_token_service_only() -> None:
    service = Service()
    auth = authenticator(service, ("u", "p"))
    assert await auth.answer(BEARER, "s", "") == "Bearer t"
    assert service.asked[0][1]["Authorization"].startswith("Basic ")


async def test_basic_is_sent_only_when_it_is_asked_for_and_not_twice() -> None:
    auth = authenticator(Service(), ("u", "p"))
    assert auth.header("s") == ""
    first = await auth.answer('Basic realm="x"', "s", "")
    assert first == auth.header("s") == "Basic dTpw"
    assert await auth.answer('Basic realm="x"', "s", first) == ""


@pytest.mark.parametrize(
    ("service", "error"),
    [
        (Service(401), DeniedError),
        (Service(503), UpstreamError),
        (Service(body=b"nonsense"), UpstreamError),
        (Service(body=b"{}"), UpstreamError),
        (Service(body=b'{"token":"a\\r\\nHost: b"}'), UpstreamError),
    ],
)
async def test_a_useless_token_service_is_an_error(service: Service, error: type[Exception]) -> None:
    with pytest.raises(error):
        await authenticator(service).answer(BEARER, "s", "")


async def test_a_strange_realm_is_never_asked() -> None:
    service = Service()
    with pytest.raises(DeniedError, match=r"evil\.test"):
        await authenticator(service, ("u", "p")).answer('Bearer realm="https://evil.test/t"', "s", "")
    assert service.asked == []
