"""The files of a container."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container.errors import ConfigError, ExistsError, NotFoundError, StateError
from container.runtime import state as states


def test_a_saved_state_is_loaded_again(tmp_path):
    state = states.create(str(tmp_path), "c1", "/b")
    state.set_pid(os.getpid())
    state.cgroup, state.annotations, state.hooks = {"unified": "/x"}, {"a": "b"}, ["poststop"]
    state.later = {"memory": {"limit": 1}}
    state.save()
    found = states.load(str(tmp_path), "c1")
    assert all(getattr(found, name) == getattr(state, name) for name in states.State.__slots__)
    assert found.status() == "created"


def test_the_status_follows_from_the_process_and_the_file(tmp_path):
    state = states.create(str(tmp_path), "c1", "/b")
    assert state.status() == "creating"
    state.set_pid(os.getpid())
    (tmp_path / "c1" / "started").write_text("1")
    assert state.status() == "running"
    state.started_ticks = 1
    assert (state.status(), state.document("stopped")["pid"]) == ("stopped", 0)


def test_a_state_of_an_older_version_is_understood(tmp_path):
    state = states.create(str(tmp_path), "c1", "/b")
    state.set_pid(os.getpid())
    state.save()
    path = tmp_path / "c1" / "state.json"
    path.write_text(path.read_text().replace('"later": null, ', ""))
    assert states.load(str(tmp_path), "c1").later is None


def test_an_id_is_taken_once(tmp_path):
    states.create(str(tmp_path), "c1", "/b")
    with pytest.raises(ExistsError, match="container with given ID already exists"):
        states.create(str(tmp_path), "c1", "/b")


def test_an_unknown_id_does_not_exist(tmp_path):
    with pytest.raises(NotFoundError, match="container does not exist"):
        states.load(str(tmp_path), "c1")


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"id": "c1"}', "{"])
def test_a_damaged_state_says_how_to_get_rid_of_it(tmp_path, text):
    states.create(str(tmp_path), "c1", "/b")
    (tmp_path / "c1" / "state.json").write_text(text)
    with pytest.raises(StateError) as caught:
        states.load(str(tmp_path), "c1")
    assert "delete --force c1" in caught.value.hint


@given(st.text())
def test_an_id_never_leads_out_of_the_directory(text):
    if states.is_id(text):
        assert os.path.basename(text) == text
        assert text not in (".", "..")
        assert "\0" not in text
    else:
        with pytest.raises(ConfigError, match="container ID"):
            states.check_id(text)


@pytest.mark.parametrize("text", ["", ".", "..", ".x", "a/b", "a b", "a\0", "é", "x" * 256, "a\n"])
def test_bad_ids_are_refused(text):
    assert not states.is_id(text)


def test_only_containers_are_listed(tmp_path):
    states.create(str(tmp_path), "b", "/b")
    states.create(str(tmp_path), "a", "/b")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "file").touch()
    assert states.ids(str(tmp_path)) == ["a", "b"]
    assert states.ids(str(tmp_path / "none")) == []


def test_times_are_rfc_3339():
    assert states.format_time(1.5) == "1970-01-01T00:00:01.500000000Z"


def test_an_unfinished_container_is_there_for_delete_alone(tmp_path):
    states.create(str(tmp_path), "c1", "/b").save()
    assert states.load(str(tmp_path), "c1", unfinished=True).status() == "creating"
    with pytest.raises(NotFoundError, match="is being created"):
        states.load(str(tmp_path), "c1")
