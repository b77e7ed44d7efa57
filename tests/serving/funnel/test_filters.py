import dataclasses
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from features import command
from features.catalogue import Catalogue
from serving import errors
from serving.building import trials
from serving.events.event import Event, Kind
from serving.funnel import filters, sources
from serving.funnel.fresh_shelf import Shelver
from serving.funnel.funnel import Funnel
from serving.funnel.page import PageRequest
from serving.history.sqlite_store import SqliteHistoryStore
from serving.history.user_history import Blocked
from serving.servables import signatures


@pytest.fixture
def history(tmp_path):
    store = SqliteHistoryStore(tmp_path / "history.sqlite")
    yield store
    store.close()


@pytest.fixture
def page_of(tiny, history):
    def make(release=None, *, k=20, settings=None, predicate=None, **asked):
        funnel = Funnel(
            releases=tiny.releases(release or tiny.release()),
            history=history,
            recorder=None,
            settings=settings or tiny.patient(),
            clock=lambda: tiny.now,
            predicate=predicate,
        )
        asked.setdefault("context", {"region": "de"})
        page = funnel.recommend(PageRequest(user_id="u", k=k, explain=True, **asked))
        funnel.close()
        return page

    return make


def numbers(page):
    return {int(item.video_id[1:]) for item in page.items}


def with_columns(release, **columns):
    """The same release, whose videos table has further columns."""
    table = release.catalogue.table
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    return dataclasses.replace(release, catalogue=Catalogue(table))


def impressions(tiny, video, *, count, at):
    return [
        Event(
            event_id=f"{video}/{at}/{n}",
            kind=Kind.IMPRESSION,
            user_id="u",
            time=at + n,
            video_id=f"v{video}",
            page_id=f"p{n}",
        )
        for n in range(count)
    ]


def test_page_is_whole_and_in_order_without_any_filter(page_of):
    page = page_of(k=48)
    assert numbers(page) == set(range(48))
    assert page.filtered == page.held_back == {}


def test_video_that_was_shown_too_often_rests_for_a_while(page_of, history, tiny):
    settings = tiny.patient(max_shown=3, shown_window_s=3600)
    history.append(impressions(tiny, 1, count=3, at=tiny.now - 100))
    history.append(impressions(tiny, 2, count=2, at=tiny.now - 100))
    history.append(impressions(tiny, 3, count=3, at=tiny.now - 5000))  # long ago
    page = page_of(k=47, settings=settings)
    assert numbers(page) == set(range(48)) - {1}
    assert page.filtered == {"shown_too_often": 1}
    assert page.held_back == {"shown_too_often": ["v1"]}
    no_limit = dataclasses.replace(settings, max_shown=0)
    assert page_of(k=48, settings=no_limit).filtered == {}


def test_page_that_nothing_else_can_fill_ends_with_what_was_shown_too_often(page_of, history, tiny):
    settings = tiny.patient(max_shown=2, per_channel=48)
    for number in range(20, 48):
        history.append(impressions(tiny, number, count=2, at=tiny.now - 100))
    history.set_blocked("u", Blocked(videos=("v47",)))
    page = page_of(k=30, settings=settings)
    shown = [int(item.video_id[1:]) for item in page.items]
    assert set(shown[:20]) == set(range(20))
    assert len(shown) == 30
    assert set(shown[20:]) < set(range(20, 47))  # Blocked stays blocked.


def test_what_the_user_or_the_request_blocks_is_not_shown(page_of, history):
    history.set_blocked("u", Blocked(videos=("v1",), channels=("c2",)))
    page = page_of(k=48, blocked=Blocked(videos=("v5", "nothing"), channels=("c3", "nobody")))
    gone = {1, 5} | {n for n in range(48) if n % 8 in {2, 3}}
    assert numbers(page) == set(range(48)) - gone
    assert page.filtered == {"blocked_video": 2, "blocked_channel": 12}


def test_videos_are_shown_where_they_may_be(page_of, tiny):
    allowed = [["fr", "it"], ["de"], [], None] * 12
    release = with_columns(tiny.release(), regions=allowed)
    assert {n % 4 for n in numbers(page_of(release, k=48))} == {1, 2, 3}
    french = page_of(release, k=48, context={"region": "fr"})
    assert {n % 4 for n in numbers(french)} == {0, 2, 3}
    assert french.filtered == {"region": 12}
    # Nobody knows where: what is for some regions only is not shown.
    nowhere = page_of(release, k=48, context={"age": 30})
    assert {n % 4 for n in numbers(nowhere)} == {2, 3}


def test_videos_are_not_shown_where_they_are_blocked(page_of, tiny):
    release = with_columns(
        tiny.release(), blocked_regions=[["de"], ["fr", "de"], ["fr"], None] * 12
    )
    assert {n % 4 for n in numbers(page_of(release, k=48))} == {2, 3}
    assert {n % 4 for n in numbers(page_of(release, k=48, context={"age": 30}))} == {0, 1, 2, 3}


def test_a_withdrawn_video_is_shown_to_nobody(page_of, tiny):
    release = with_columns(tiny.release(), withdrawn=[True, False, None] * 16)
    rows = filters.withdrawn_rows(release.catalogue, release.catalogue.table)
    release = dataclasses.replace(release, withdrawn=rows)
    page = page_of(release, k=48)
    assert {n % 3 for n in numbers(page)} == {1, 2}
    assert page.filtered == {"withdrawn": 16}


def test_a_column_that_says_neither_yes_nor_no_withdraws_nothing_and_is_an_error(tiny, caplog):
    release = with_columns(tiny.release(), withdrawn=["maybe"] * 48)
    assert not len(filters.withdrawn_rows(release.catalogue, release.catalogue.table))
    assert "withdrawn" in caplog.text


def test_rules_of_the_videos_table_of_now_count_and_not_those_of_the_build(page_of, tiny):
    built = with_columns(tiny.release(), regions=[["fr"]] + [None] * 47)
    table = built.catalogue.table.select(["video_id", "upload_time"])
    now = {
        "regions": [None, ["fr"], ["fr"]] + [None] * 43,
        "min_age": [None] * 4 + [18] + [None] * 41,
        "withdrawn": [None] * 5 + [True] + [False] * 40,
    }
    newest = table.slice(0, 46)  # The last two videos are not in the table any more.
    for name, values in now.items():
        newest = newest.append_column(name, pa.array(values))
    page = page_of(Shelver(built, None, None).with_videos(newest), k=48)
    assert numbers(page) == set(range(48)) - {1, 2, 4, 5}
    assert page.filtered == {"region": 2, "age": 1, "withdrawn": 1}
    # What the table does not say stays as it was built.
    assert 0 not in numbers(page_of(Shelver(built, None, None).with_videos(table), k=48))
    # And a release that nothing is said of, then or now, is the same one.
    plain = tiny.release()
    assert Shelver(plain, None, None).with_videos(plain.catalogue.table) is plain
    gone = newest.slice(1)
    assert 0 not in numbers(page_of(Shelver(built, None, None).with_videos(gone), k=48))


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"regions": ["us"] * 48}, "column 'regions': expected list<string>, found string"),
        ({"blocked_regions": [1.5] * 48}, "column 'blocked_regions': expected list<string>"),
        ({"min_age": ["18+"] * 48}, "column 'min_age': expected double, found string"),
        ({"withdrawn": ["no"] * 48}, "column 'withdrawn': expected bool, found string"),
        ({"withdrawn": [True] * 48}, "every video is withdrawn"),
    ],
)
def test_a_release_whose_filters_cannot_run_does_not_pass_its_trial(tiny, columns, problem):
    gate = trials.rules(with_columns(tiny.release(), **columns).catalogue)
    assert gate.verdict == "FAIL"
    assert problem in gate.value


def test_rules_in_every_form_that_can_be_read_pass_the_trial_and_filter(page_of, tiny):
    columns = {
        "regions": pa.nulls(48),  # As pandas writes an empty column.
        "blocked_regions": pa.array([["de"], None] * 24, pa.large_list(pa.large_string())),
        "min_age": pa.array([0] * 48, pa.int8()),
        "withdrawn": pa.array([1] + [0] * 47),
    }
    release = with_columns(tiny.release(), **columns)
    assert trials.rules(release.catalogue).verdict == "pass"
    assert {n % 2 for n in numbers(page_of(release, k=48))} == {1}


def test_age_must_be_known_and_reached(page_of, tiny):
    release = with_columns(tiny.release(), min_age=[None, 0, 16, 18] * 12)
    seen = {
        age: {n % 4 for n in numbers(page_of(release, k=48, context={"region": "de", "age": age}))}
        for age in (None, 12.0, 16.0, 17.9, 18.0)
    }
    assert seen == {
        None: {0, 1},
        12.0: {0, 1},
        16.0: {0, 1, 2},
        17.9: {0, 1, 2},
        18.0: {0, 1, 2, 3},
    }


def test_custom_predicate_is_asked_of_all_that_is_shown(page_of, history, tiny):
    def even(viewer, catalogue, rows):
        assert viewer.user_id == "u"
        assert len(rows)  # Nobody is asked of nothing.
        return np.array([int(catalogue.video_ids[int(row)].as_py()[1:]) % 2 == 0 for row in rows])

    page = page_of(k=48, predicate=even)
    assert numbers(page) == set(range(0, 48, 2))
    assert page.filtered == {"custom": 24}


@pytest.mark.parametrize("keep", [3, 20, 21])
def test_page_is_full_as_long_as_the_catalogue_has_enough(page_of, history, tiny, keep):
    """Narrow sources, of whose first choices nothing is left: they must look on."""
    history.append(
        [
            Event(
                event_id="w",
                kind=Kind.WATCH,
                user_id="u",
                time=tiny.now - 9,
                video_id="v47",
                watch_time_s=9.0,
            )
        ]
    )
    last = set(range(48 - 1 - keep, 47))  # The least popular and oldest ones.
    page = page_of(
        settings=tiny.patient(retrieved=2, trending=1, per_source=1, per_channel=48),
        predicate=lambda viewer, catalogue, rows: np.isin(rows, list(last)),
    )
    assert len(page.items) == min(keep, 20)
    assert numbers(page) <= last
    assert page.filtered["watched"] == 1


def test_nothing_is_shown_when_the_predicate_fails(page_of):
    with pytest.raises(errors.FilterError, match="ZeroDivisionError"):
        page_of(predicate=lambda viewer, catalogue, rows: 1 / 0)
    with pytest.raises(errors.FilterError, match=r"must return bool \[\d+\], got float64"):
        page_of(predicate=lambda viewer, catalogue, rows: np.ones(len(rows)))


def test_predicate_is_named_by_module_and_function():
    assert filters.load_predicate("math:isfinite") is __import__("math").isfinite
    for name in ("math", "math:nothing", "no_such_module:f", ":", "math:pi"):
        with pytest.raises(command.InputError, match="--filter="):
            filters.load_predicate(name)


# ---- videos without an embedding -----------------------------------------------------------------


def test_video_without_an_embedding_is_not_retrieved_and_has_no_score(page_of, history, tiny):
    # Videos 40 to 47 have no embedding: their bias makes them unreachable.
    release = tiny.release()
    embeddings = release.index.embeddings.copy()
    embeddings[40:] = [0, 0, 0, 0, signatures.UNREACHABLE_BIAS]
    index = tiny.index(embeddings)
    release = dataclasses.replace(
        release, index=index, sources=(sources.Retrieval(index), *release.sources[1:])
    )
    page = page_of(release, k=48)
    assert page.nominated["retrieval"] == 40
    for item in page.items:
        if int(item.video_id[1:]) >= 40:
            assert "retrieval" not in item.sources
            assert item.retrieval_score is None


def test_regions_that_callers_make_up_are_not_remembered(tiny):
    """A mask for each of 1,000 names would be 20 MB; what videos name is all there is to keep."""
    release = tiny.release()
    table = pa.concat_tables([release.catalogue.table] * 420).slice(0, 20_000)
    lists = pa.array([["fr", "it"], ["de"], [], None] * 5000)
    for name in ("regions", "blocked_regions"):
        table = table.append_column(name, lists)
    rules = filters.VideoRules(Catalogue(table), np.zeros(0, np.int32))
    rows = np.arange(len(table))
    tracemalloc.start()
    kept = []
    for number in range(1000):
        kept.append(rules.allowed_in(f"made up {number}"))
        assert kept[-1](rows[:8]).tolist() == [False, False, True, True] * 2
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 1_000_000  # Even of those that requests still hold.
