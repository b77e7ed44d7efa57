"""Objects of real servers: conditions, refusals, and what a network does on the way."""

import builtins
import sys
import threading

import pytest

from features import command, stores
from features.stores import clients, locations, objects


def bucket(store):
    return objects.at(locations.parse(store.url()))


def test_an_object_is_read_as_it_was_written(store):
    things = bucket(store)
    things.write("a/b", b"content")
    content, meta = things.read("a/b")
    assert content == b"content"
    assert (meta.key, meta.size) == ("a/b", 7)
    assert things.read("a/c") is None
    assert things.head("a/c") is None


def test_an_object_that_is_known_is_not_read_again(store):
    things = bucket(store)
    things.write("known", b"1")
    _, meta = things.read("known")
    assert things.read("known", unless=meta) is None
    things.write("known", b"2")
    assert things.read("known", unless=meta)[0] == b"2"


def test_an_object_is_created_by_one_of_many(store):
    things = bucket(store)
    won = []

    def create(number):
        try:
            things.write("created", b"%d" % number, mode="create")
        except clients.ConflictError:
            return
        won.append(number)

    threads = [threading.Thread(target=create, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert things.read("created")[0] == b"%d" % won[0]


def test_an_object_is_replaced_only_if_it_is_what_was_read(store):
    things = bucket(store)
    first = things.write("current", b"1")
    second = things.write("current", b"2", mode=first.token)
    with pytest.raises(clients.ConflictError):
        things.write("current", b"3", mode=first.token)
    things.write("current", b"4", mode=second.token)
    assert things.read("current")[0] == b"4"


def test_an_object_that_was_replaced_is_not_taken_for_the_one_that_was_listed(store, tmp_path):
    things = bucket(store)
    things.write("listed", b"old content")
    meta = things.head("listed")
    things.write("listed", b"new content")
    with pytest.raises(clients.ConflictError):
        things.download(meta, tmp_path / "file")


def test_objects_are_listed_below_a_prefix_and_removed_though_one_is_gone(store):
    things = bucket(store)
    for name in ("p/b", "p/a", "pq/c"):
        things.write(name, name.encode())
    assert [meta.key for meta in things.list("p/")] == ["p/a", "p/b"]
    things.delete(["p/a", "p/never", "p/b"])
    assert list(things.list("p/")) == []
    assert things.read("pq/c")[0] == b"pq/c"


# What a network and a busy store do


def test_a_store_that_asks_for_patience_is_asked_again(store, proxy, caplog):
    failures = iter(["503"] * 6)
    proxy.fault = lambda method, path: next(failures, "") if method == "PUT" else ""
    bucket(store).write("patience", b"1")
    assert bucket(store).read("patience")[0] == b"1"


def test_a_write_that_is_cut_leaves_nothing_and_is_sent_again(store, proxy):
    cuts = iter(["cut"])
    writes = {"PUT", "POST"}
    proxy.fault = lambda method, path: next(cuts, "") if method in writes else ""
    bucket(store).write("cut", b"x" * 100_000)
    assert bucket(store).read("cut")[0] == b"x" * 100_000
    assert next(cuts, "none left") == "none left"


def test_a_conditional_write_whose_answer_is_lost_is_no_conflict(store, proxy):
    lost = iter(["lost"])
    writes = {"PUT", "POST"}
    proxy.fault = lambda method, path: next(lost, "") if method in writes else ""
    bucket(store).write("lease", b"mine", mode="create")
    assert bucket(store).read("lease")[0] == b"mine"


def test_an_answer_that_ends_in_the_middle_is_read_again(store, proxy, tmp_path):
    things = bucket(store)
    things.write("large", bytes(300_000))
    meta = things.head("large")
    cuts = iter(["cut answer"])
    proxy.fault = lambda method, path: next(cuts, "") if "large" in path else ""
    things.download(meta, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == bytes(300_000)


def test_a_store_that_does_not_answer_is_named_after_a_while(store, proxy, monkeypatch, caplog):
    monkeypatch.setenv(objects.PATIENCE, "4")
    proxy.fault = lambda method, path: "503"
    with pytest.raises(command.InputError, match="does not answer") as refused:
        bucket(store).write("never", b"1")
    assert objects.PATIENCE in str(refused.value)
    assert "Trying again" in caplog.text


# Refusals


def test_a_bucket_that_is_not_there_is_named(store):
    elsewhere = objects.at(locations.parse(f"{store.scheme}://elsewhere/x"))
    with pytest.raises(command.InputError, match="elsewhere does not exist: create the bucket"):
        list(elsewhere.list("x/"))
    with pytest.raises(command.InputError, match="elsewhere does not exist: create the bucket"):
        elsewhere.write("x", b"1")


def test_wrong_credentials_are_refused_at_once(s3, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(command.InputError, match="refuses these credentials") as refused:
        bucket(s3).write("x", b"1")
    assert "AWS_SECRET_ACCESS_KEY" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_extra_is_one_message(monkeypatch):
    for module in ("obstore", "google.cloud"):
        monkeypatch.setitem(sys.modules, module, None)
    for module in ("s3_client", "google_client"):
        monkeypatch.delitem(sys.modules, f"features.stores.{module}", raising=False)
        monkeypatch.delattr(stores, module, raising=False)
    for scheme, extra in (("s3", "s3"), ("gs", "gcs")):
        with pytest.raises(command.InputError, match=rf"pip install '\.\[{extra}\]'"):
            objects.Bucket(locations.parse(f"{scheme}://bucket/x"))


@pytest.mark.parametrize("url", ["s3://", "s3:///x", "gs://b/../x", "http://b/x", "s3://b/./x"])
def test_what_is_no_place_is_refused(url):
    with pytest.raises(command.InputError, match=r"must (not have|be)"):
        locations.parse(url)


def test_slashes_around_a_key_mean_nothing():
    place = locations.parse("s3://bucket//a/b//c/")
    assert (place.bucket, place.key, place.name) == ("bucket", "a/b/c", "c")
    assert str(place / "d") == "s3://bucket/a/b/c/d"


def test_a_failure_of_this_machine_is_not_the_stores(store, tmp_path, monkeypatch):
    things = bucket(store)
    things.write("local", b"1")
    meta = things.head("local")
    with pytest.raises(builtins.FileNotFoundError):
        things.download(meta, tmp_path / "no directory" / "file")
