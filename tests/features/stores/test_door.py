"""Flags of commands whose paths are in a store."""

import sys

import pytest

from features import command, files
from features.stores import door, locations, objects


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    monkeypatch.setattr(door, "_STANDS_FOR", {})


def write(url, content=b"1"):
    place = locations.parse(url)
    objects.at(place).write(place.key, content)


def test_what_is_read_is_here_before_the_command_and_what_it_wrote_there_after(store, capsys):
    write(store.url("door/in/file"), b"content")
    output = store.url("door/out")
    values = {"logs": store.url("door/in"), "output": f"{output}/"}
    with door.opened(values, reads=["logs"], writes=["output"]):
        directory = files.pathlib.Path(values["output"])
        with files.atomic_directory(directory) as new:
            (new / "copy").write_bytes((files.pathlib.Path(values["logs"]) / "file").read_bytes())
            files.mark_complete(new, {})
        print(f"Wrote {directory}. Beside it is {directory}.rejected, in it {directory}/copy")
    place = locations.parse(f"{output}/copy")
    assert objects.at(place).read(place.key)[0] == b"content"
    assert not directory.exists()
    assert capsys.readouterr().out == (
        f"Wrote {output}. Beside it is {directory}.rejected, in it {output}/copy\n"
    )


def test_nothing_is_written_by_a_command_that_fails_and_its_work_stays(store):
    values = {"output": store.url("door/failed")}
    with pytest.raises(RuntimeError), door.opened(values, writes=["output"]):
        here = files.pathlib.Path(values["output"])
        here.mkdir()
        raise RuntimeError
    place = locations.parse(store.url("door/failed"))
    assert list(objects.at(place).list(place.key)) == []
    values = {"output": store.url("door/failed")}
    with door.opened(values, writes=["output"]):
        assert files.pathlib.Path(values["output"]).is_dir()


def test_what_is_gone_on_with_is_there(store):
    write(store.url("door/run/a"), b"before")
    values = {"work": store.url("door/run")}
    with door.opened(values, updates=["work"]):
        here = files.pathlib.Path(values["work"])
        assert (here / "a").read_text() == "before"
        (here / "b").write_text("after")
    place = locations.parse(store.url("door/run/b"))
    assert objects.at(place).read(place.key)[0] == b"after"


def test_what_stands_there_is_replaced_only_when_that_is_asked_for(store):
    write(store.url("door/logs/a"))
    values = {"logs": store.url("door/logs")}
    with (
        pytest.raises(command.InputError, match="has content: a"),
        door.opened(dict(values), creates=["logs"]),
    ):
        pass
    with door.opened(values, creates=["logs"], overwrite=True):
        files.pathlib.Path(values["logs"]).mkdir()
        (files.pathlib.Path(values["logs"]) / "b").write_text("2")
    place = locations.parse(store.url("door/logs"))
    assert [meta.key for meta in objects.at(place).list("door/logs/")] == ["door/logs/b"]


def test_a_flag_that_takes_no_store_says_so():
    with (
        pytest.raises(command.InputError, match="--cache=s3://b/x must be a path on this machine"),
        door.opened({"cache": "s3://b/x"}, reads=["logs"]),
    ):
        pass


def test_what_is_printed_goes_where_it_went(store):
    before = sys.stdout
    write(store.url("door/in2/file"))
    with door.opened({"logs": store.url("door/in2")}, reads=["logs"]):
        assert sys.stdout is not before
    assert sys.stdout is before
