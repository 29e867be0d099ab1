import pytest

from blob.oci.image import ContainerConfig
from container.errors import ConfigError
from container.intent import ContainerRunSpec, ExecSpec
from container.pods.process import arguments, capabilities, environment, exec_process, process
from container.pods.users import User

IMAGE = ContainerConfig(entrypoint=("/entry",), cmd=("serve",), env=("A=image", "bogus"), working_dir="/srv")


def spec(**fields):
    return ContainerRunSpec(image="demo", **fields)


@pytest.mark.parametrize(
    ("fields", "image", "argv"),
    [
        ({}, IMAGE, ["/entry", "serve"]),
        ({"args": ["x"]}, IMAGE, ["/entry", "x"]),
        ({"command": ["c"]}, IMAGE, ["c"]),
        ({"command": ["c"], "args": ["x"]}, IMAGE, ["c", "x"]),
        ({"command": [], "args": []}, IMAGE, ["/entry", "serve"]),
        ({}, ContainerConfig(cmd=("serve",)), ["serve"]),
        ({"args": ["x"]}, ContainerConfig(), ["x"]),
    ],
)
def test_arguments_follow_the_rules_of_docker(fields, image, argv):
    assert arguments(spec(**fields), image) == argv


@pytest.mark.parametrize("image", [ContainerConfig(), ContainerConfig(cmd=("",))])
def test_no_program_at_all_is_an_error_with_a_hint(image):
    with pytest.raises(ConfigError, match="neither") as caught:
        arguments(spec(), image)
    assert caught.value.hint


def test_later_environment_wins_and_keeps_its_place():
    assert environment(["A=1", "B=2"], ["A=3", "C=4=5"]) == ["A=3", "B=2", "C=4=5"]


@pytest.mark.parametrize("entry", ["A", "=x", "", "A=\0"])
def test_what_is_no_assignment_is_refused(entry):
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        environment([entry])


def test_an_images_broken_environment_is_left_out():
    made = process(spec(env=["B=spec"]), IMAGE, User(home="/h"), "host")
    assert made["env"][1:] == ["HOSTNAME=host", "A=image", "B=spec", "HOME=/h"]
    assert made["cwd"] == "/srv"


def test_a_given_home_is_kept():
    assert "HOME=/mine" in process(spec(env=["HOME=/mine"]), IMAGE, User(home="/h"), "host")["env"]


def test_relative_working_directory_is_refused():
    with pytest.raises(ConfigError, match="not absolute"):
        process(spec(workdir="srv"), IMAGE, User(), "host")


def test_default_capabilities_are_dockers_fourteen():
    assert len(capabilities(spec())) == 14


def test_capabilities_are_added_and_dropped_by_any_spelling():
    found = capabilities(spec(capabilities_add=["net_admin"], capabilities_drop=["CAP_KILL"]))
    assert "CAP_NET_ADMIN" in found
    assert "CAP_KILL" not in found
    assert capabilities(spec(capabilities_drop=["ALL"], capabilities_add=["CHOWN"])) == ["CAP_CHOWN"]
    assert len(capabilities(spec(capabilities_add=["all"]))) > 30


def test_unknown_capability_is_named():
    with pytest.raises(ConfigError, match="CAP_FLY"):
        capabilities(spec(capabilities_add=["fly"]))


MAIN = process(spec(terminal=True), IMAGE, User(5, 6, (), "/h"), "host")


def test_exec_is_the_containers_process_with_another_program():
    made = exec_process(MAIN, ExecSpec(["ls"], env=["A=exec"]), None)
    assert (made["args"], made["terminal"], made["cwd"], made["user"]) == (["ls"], False, "/srv", {"uid": 5, "gid": 6})
    assert "A=exec" in made["env"]
    assert "consoleSize" not in made
    assert made["capabilities"] == MAIN["capabilities"]


def test_exec_as_another_user_has_that_users_home():
    made = exec_process(MAIN, ExecSpec(["ls"]), User(0, 0, (), "/root"))
    assert made["user"] == {"uid": 0, "gid": 0}
    assert [entry for entry in made["env"] if entry.startswith("HOME=")] == ["HOME=/root"]


def test_privileged_exec_on_a_terminal():
    made = exec_process(MAIN, ExecSpec(["sh"], terminal=True, privileged=True, rows=9, cols=8, workdir="/w"), None)
    assert made["consoleSize"] == {"height": 9, "width": 8}
    assert (made["noNewPrivileges"], made["cwd"]) == (False, "/w")
    assert "CAP_SYS_ADMIN" in made["capabilities"]["bounding"]
