"""config.json: the schema, the rules, and a round trip that loses nothing."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container.errors import ConfigError
from container.spec import config, document, example

EXAMPLE = example.config(1000, 1000, rootless=True)


def changed(**process):
    found = copy.deepcopy(EXAMPLE)
    found["process"] |= process
    return json.dumps(found).encode()


def places(value, path=()):
    """Every (path, value) in a JSON value."""
    yield path, value
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


def put(value, path, new):
    found = copy.deepcopy(value)
    if not path:
        return new
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return found


@pytest.mark.parametrize("rootless", [False, True])
def test_the_example_is_valid(rootless):
    assert config.parse(json.dumps(example.config(7, 8, rootless)).encode())["process"]["args"] == ["sh"]


def test_the_rootless_example_maps_the_caller_and_names_no_other_id():
    linux = EXAMPLE["linux"]
    assert linux["uidMappings"] == [{"containerID": 0, "hostID": 1000, "size": 1}]
    assert not any(word.startswith(("uid=", "gid=")) for mount in EXAMPLE["mounts"] for word in mount["options"])


@given(
    st.dictionaries(st.text(min_size=1).map("x-".__add__), st.integers() | st.text() | st.none(), min_size=1), st.data()
)
def test_unknown_fields_survive_the_round_trip_wherever_they_are(fields, data):
    objects = [path for path, value in places(EXAMPLE) if isinstance(value, dict)]
    path = data.draw(st.sampled_from(objects))
    inner = dict(places(EXAMPLE))[path] if path else EXAMPLE
    written = put(EXAMPLE, path, {**inner, **fields})
    if path[-1:] == ("annotations",):
        return
    read = config.parse(json.dumps(written).encode())
    assert document.decode(document.encode(read)) == written


@given(st.data())
def test_a_wrong_type_anywhere_is_one_config_error_that_names_a_field(data):
    path, _ = data.draw(st.sampled_from([place for place in places(EXAMPLE) if place[0][:2] != ("linux", "resources")]))
    broken = put(EXAMPLE, path, data.draw(st.sampled_from([1.5, {"a": 1}, [[]], "x", -1, True])))
    try:
        config.parse(json.dumps(broken).encode())
    except ConfigError as error:
        named = error.message
    else:
        return  # it was of the right type, or the field is one that nobody knows
    assert "`" in named


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "not JSON"),
        (b"[]", "must be an object"),
        (b"{}", "`ociVersion` is missing"),
        (b'{"ociVersion": "2.0.0"}', "`2.0.0`"),
        (b'{"ociVersion": "1.0.0"}', "`root` is missing"),
        (b"[" * 100_000, "nested too deeply"),
        (b'"' + b"x" * config.MAX_BYTES + b'"', "larger than"),
        (changed(args=[]), "`process.args`"),
        (changed(args=[1]), "`process.args[0]` must be a string, not an integer `1`"),
        (changed(cwd="relative"), "absolute"),
        (changed(env=["NAME"]), "`process.env[0]`"),
        (changed(env=["=x"]), "`process.env[0]`"),
        (changed(args=["a\0b"]), "NUL"),
        (changed(terminal=1), "`process.terminal` must be true or false, not an integer"),
        (changed(user={"uid": True}), "`process.user.uid` must be an integer, not true or false"),
        (changed(rlimits=[{"type": "RLIMIT_CORE", "soft": 1, "hard": 1}] * 2), "twice"),
        (changed(rlimits=[{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}]), "above the hard one"),
    ],
)
def test_a_wrong_document_is_refused_with_the_field_named(raw, words):
    with pytest.raises(ConfigError) as caught:
        config.parse(raw)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("namespaces", "words"),
    [
        ([{"type": "net"}], "`net` is unknown"),
        ([{"type": "pid"}, {"type": "pid"}], "`pid` twice"),
        ([{"type": "mount"}], "`hostname` needs a `uts`"),
        ([{"type": "uts"}], "`linux.uidMappings`"),
    ],
)
def test_namespaces_are_known_single_and_enough(namespaces, words):
    with pytest.raises(ConfigError) as caught:
        config.parse(json.dumps(put(EXAMPLE, ("linux", "namespaces"), namespaces)).encode())
    assert words in caught.value.message


def test_a_missing_bundle_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.json"):
        config.load(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "kinds", "refused"),
    [
        ("net.ipv4.ip_forward", ["network"], ""),
        ("net/ipv4/conf/eth0.1/forwarding", ["network"], ""),
        ("net.ipv4.ip_forward", ["ipc"], "needs a namespace"),
        ("kernel.msgmax", ["ipc"], ""),
        ("kernel.msgmax", ["network"], "needs a namespace"),
        ("fs.mqueue.queues_max", ["ipc"], ""),
        ("kernel.hostname", ["uts"], "what `hostname` is for"),
        ("kernel.core_pattern", ["uts", "ipc", "network", "user", "pid", "mount"], "would change the host"),
        ("kernel/core_pattern", ["uts"], "would change the host"),
        ("fs.file-max", ["ipc", "mount"], "would change the host"),
        ("user.max_user_namespaces", ["user"], ""),
    ],
)
def test_only_sysctls_of_the_containers_own_namespaces_may_be_set(name, kinds, refused):
    namespaces = [{"type": kind} for kind in kinds]
    document = {
        "ociVersion": "1.2.0",
        "root": {"path": "r"},
        "linux": {"namespaces": namespaces, "sysctl": {name: "1"}},
    }
    if not refused:
        config.parse(json.dumps(document).encode())
        return
    with pytest.raises(ConfigError, match=refused):
        config.parse(json.dumps(document).encode())


@pytest.mark.parametrize(("domain", "valid"), [("foo", True), ("bar", False)])
def test_a_domain_name_and_its_sysctl_must_agree(domain, valid):
    document = put(EXAMPLE, ("linux", "sysctl"), {"kernel.domainname": "foo"}) | {"domainname": domain}
    if valid:
        config.parse(json.dumps(document).encode())
    else:
        with pytest.raises(ConfigError, match="domainname"):
            config.parse(json.dumps(document).encode())


def test_network_devices_need_a_network_namespace():
    document = {"ociVersion": "1.2.0", "root": {"path": "r"}, "linux": {"netDevices": {"eth0": {}}}}
    with pytest.raises(ConfigError, match="network"):
        config.parse(json.dumps(document).encode())
