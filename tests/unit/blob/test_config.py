from pathlib import Path

import pytest

from blob.config import DEFAULT_URLS, Config, load_config
from blob.errors import ConfigError


def load(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "blob.toml"
    path.write_text(text)
    return load_config(path)


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, "")
    assert config == Config()
    assert {name: upstream.url for name, upstream in config.upstreams.items()} == DEFAULT_URLS
    assert config.server.listen == ("127.0.0.1:5050",)
    assert config.cache.tag_ttl_s == 300


def test_configured_upstreams_replace_the_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, '[upstream."my.org"]\n[upstream."docker.io"]\nusername="u"\npassword="p"')
    assert config.upstreams["my.org"].url == "https://my.org"
    assert config.upstreams["docker.io"].url == DEFAULT_URLS["docker.io"]
    assert len(config.upstreams) == 2
    assert load(tmp_path, "[upstream]").upstreams == {}


def test_credentials_come_from_a_file(tmp_path: Path) -> None:
    login = tmp_path / "login"
    login.write_text("me:pass:word\n")
    upstream = load(tmp_path, f'[upstream."a.b"]\ncredentials="{login}"').upstreams["a.b"]
    assert (upstream.username, upstream.password) == ("me", "pass:word")


def test_a_password_is_never_shown(tmp_path: Path) -> None:
    config = load(tmp_path, '[upstream."a.b"]\nusername="u"\npassword="hunter2"')
    assert "hunter2" not in repr(config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server]\nlisten=5050", "`server.listen` in `FILE`: expected `array`, got `int`"),
        ("[server]\nprot=1", "unknown key `server.prot` in `FILE`"),
        ("[caches]", "unknown table `caches` in `FILE`"),
        ('[upstream."quay.io"]\nulr="x"', "unknown key `upstream.quay.io.ulr` in `FILE`"),
        ('[upstream."quay.io"]\nurl="http://quay.io"', "is not encrypted"),
        ('[upstream."quay.io"]\nurl="ftp://quay.io"', "is not usable"),
        ('[upstream."quay.io"]\nurl="https://user:pw@quay.io"', "is not usable"),
        ('[upstream."quay.io"]\nurl="https://quay.io:x"', "is malformed"),
        ('[upstream."quay.io"]\nusername="x"', "only one of `username` and `password`"),
        ('[upstream."quay.io"]\ncredentials="/nowhere"', "cannot read credentials"),
        ('[upstream."quay.io"]\nstall_timeout_s=0', "not positive"),
        ('[upstream."qu ay"]', "is not a registry"),
        ("[cache]\ntag_ttl_s=-1", "is negative"),
        ("[", "is not TOML"),
    ],
)
def test_a_mistake_is_named_with_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert message.replace("FILE", str(tmp_path / "blob.toml")) in caught.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`/nowhere/x`: no such file"):
        load_config(Path("/nowhere/x"))
