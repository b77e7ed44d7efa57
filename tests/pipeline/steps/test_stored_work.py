"""A work directory in a store: another machine goes on where one was lost."""

import pytest

from features import command, files
from features.stores import directories, leases, locations, objects
from pipeline.steps import declared, step_records, stored_work


@pytest.fixture
def machine(store, request, tmp_path, monkeypatch):
    """Gives the places of a retraining as a machine of this name has them."""
    base = store.url(f"work/{request.node.name.replace('[', '-').rstrip(']')}")

    def places(name):
        monkeypatch.setenv("WATCHNEXT_CACHE", str(tmp_path / name))
        return stored_work.Places(f"{base}/work", str(tmp_path / "root"), declared.STEPS)

    return places


def make(places, text):
    """Does what a step and its record do."""
    with files.atomic_directory(places.work / declared.EXAMPLES) as new:
        (new / "rows").write_text(text)
        files.mark_complete(new, {"made": text})
    places.keep(declared.EXAMPLES)
    step = declared.STEPS[0]
    stamp = step_records.stamp(step, places.work / declared.EXAMPLES)
    record = step_records.Record(fingerprint="f", inputs={}, stamp=stamp, finished="now")
    step_records.write(places.work, step, record)
    places.keep(step_records.DIRECTORY)
    return record


def found(places):
    step = declared.STEPS[0]
    artefact = places.work / declared.EXAMPLES
    record = step_records.read(places.work, step, artefact)
    return record, step_records.stamp(step, artefact)


def test_another_machine_has_the_artefacts_and_takes_the_records_for_true(machine):
    one = machine("one")
    with one.opened():
        record = make(one, "first")
    two = machine("two")
    assert two.work != one.work
    with two.opened():
        assert found(two) == (record, record.stamp)
        newer = make(two, "second")
    one = machine("one")
    with one.opened():
        assert found(one) == (newer, newer.stamp)
        assert (one.work / declared.EXAMPLES / "rows").read_text() == "second"


def test_what_the_store_lacks_is_no_artefact(machine):
    one = machine("one")
    with one.opened():
        make(one, "first")
    place = locations.parse(one.url) / declared.EXAMPLES
    objects.at(place).delete([(place / files.COMPLETE).key])
    with one.opened():
        assert not (one.work / declared.EXAMPLES).exists()


def test_what_could_not_be_written_is_written_by_the_next_run_here(
    store, proxy, machine, monkeypatch
):
    monkeypatch.setenv(objects.PATIENCE, "0.1")
    one = machine("one")
    with pytest.raises(command.InputError, match="does not answer"), one.opened():
        proxy.fault = lambda method, path: "503" if "examples" in path else ""
        make(one, "first")
    proxy.fault = lambda method, path: ""
    monkeypatch.setenv(objects.PATIENCE, "20")
    with one.opened():
        assert (one.work / declared.EXAMPLES / "rows").read_text() == "first"
    assert files.read_complete(directories.fetch(locations.parse(one.url) / declared.EXAMPLES))


def test_two_runs_do_not_share_a_work_directory(machine):
    one = machine("one")
    with (
        one.opened(),
        pytest.raises(command.InputError, match="is in use by process"),
        leases.hold(locations.parse(one.url) / ".lease", what="it"),
    ):
        pass
