"""The command line as podman, conmon, containerd, CRI-O and crun's tests write it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container.errors import ConfigError
from container.runtime.arguments import GLOBAL, VERBS, help_text, parse
from container.runtime.processes import parse_user


@pytest.mark.parametrize(
    ("line", "verb", "operands", "options"),
    [
        ("create --bundle B --pid-file P c1", "create", ["c1"], {"--bundle": "B", "--pid-file": "P"}),
        ("--systemd-cgroup create --bundle=B --no-pivot c1", "create", ["c1"], {"--bundle": "B", "--no-pivot": "true"}),
        (
            "--root R --log L --log-format json delete --force c1",
            "delete",
            ["c1"],
            {"--root": "R", "--log-format": "json"},
        ),
        ("--root=R start c1", "start", ["c1"], {"--root": "R"}),
        ("kill c1 9", "kill", ["c1", "9"], {}),
        ("kill --all c1 KILL", "kill", ["c1", "KILL"], {"--all": "true"}),
        ("kill c1 --all", "kill", ["c1"], {"--all": "true"}),
        ("exec --pid-file P --process F --detach c1", "exec", ["c1"], {"--process": "F", "--detach": "true"}),
        ("exec -t c1 ls --all -la", "exec", ["c1", "ls", "--all", "-la"], {"--tty": "true", "--all": ""}),
        ("update --resources=- c1", "update", ["c1"], {"--resources": "-"}),
        ("update --resources - c1", "update", ["c1"], {"--resources": "-"}),
        ("run -no-subreaper -b B c1", "run", ["c1"], {"--no-subreaper": "true", "--bundle": "B"}),
        ("--rootless=false list -q", "list", [], {"--rootless": "false", "--quiet": "true"}),
    ],
)
def test_callers_are_understood(line, verb, operands, options):
    arguments = parse(line.split())
    assert (arguments.verb, arguments.operands) == (verb, operands)
    assert {option: arguments.get(option) for option in options} == options


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("creat c1", "unknown command `creat`"),
        ("create --bundel B c1", "unknown option `--bundel`"),
        ("create", "`create` takes ID"),
        ("start a b", "not `a b`"),
        ("create --pid-file", "requires an argument"),
    ],
)
def test_mistakes_are_named_with_a_hint(line, words):
    with pytest.raises(ConfigError) as caught:
        parse(line.split())
    assert words in caught.value.message


def test_a_switch_may_be_turned_off():
    assert not parse(["delete", "--force=false", "c1"]).has("--force")


@given(st.lists(st.text(max_size=8), max_size=6))
def test_any_words_are_understood_or_refused(words):
    try:
        parsed = parse(words)
    except ConfigError:
        return
    assert parsed.verb in ("", *VERBS)


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_names_every_option(verb):
    text = help_text(verb)
    for option in VERBS[verb][1] if verb else GLOBAL:
        assert option in text


@given(st.integers(min_value=0, max_value=2**32), st.integers(min_value=0, max_value=2**32) | st.none())
def test_a_user_is_read_as_it_is_written(uid, gid):
    assert parse_user(f"{uid}" if gid is None else f"{uid}:{gid}") == (uid, gid)


def test_user_1_is_uid_1():
    """CVE-2026-30892: `1` was taken for uid 0."""
    assert parse_user("1") == (1, None)


@given(
    st.text().filter(lambda text: not text.replace(":", "", 1).isascii() or not text.replace(":", "", 1).isdecimal())
)
def test_a_user_that_is_no_number_is_refused(text):
    with pytest.raises(ConfigError):
        parse_user(text)


@pytest.mark.parametrize(
    "text", ["", ":", "1:", ":1", "1:1:1", "-1", "+1", " 1", "1 ", "0x1", "1e3", "root", "٣", "1\n"]
)
def test_odd_users_are_refused(text):
    with pytest.raises(ConfigError):
        parse_user(text)


@pytest.mark.parametrize("text", ["", "x", "1.5", "٣", "--1"])
def test_a_number_must_be_plain(text):
    with pytest.raises(ConfigError):
        parse(["create", "--preserve-fds", text, "c1"]).number("--preserve-fds")
