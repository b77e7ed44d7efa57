"""Experiments: the split, what arms differ in, and releases that arms are kept on."""

import json

import numpy as np
import pytest

from features import command
from features.tables import logs
from serving import errors
from serving.funnel import experiment as ab_experiment
from serving.funnel.arm_release import ArmRelease
from serving.funnel.page import PageRequest
from serving.release import manifest as release
from serving.release import publication
from serving.server import service
from tests.serving.server.asking import ask


@pytest.fixture
def experiment_file(tmp_path):
    def write(**changes):
        content = {
            "name": "channels",
            "arms": [
                {"name": "control", "share": 0.4},
                {"name": "narrow", "share": 0.4, "settings": {"retrieved": 5}},
            ],
            **changes,
        }
        path = tmp_path / "experiment.json"
        path.write_text(json.dumps(content))
        return path

    return write


def test_split_is_deterministic_and_has_the_shares(experiment_file):
    experiment = ab_experiment.load(experiment_file())
    users = [f"user-{n}" for n in range(20_000)]
    arms = [arm.name if arm else "" for arm in map(experiment.arm_of, users)]
    again = ab_experiment.load(experiment_file())
    assert arms == [arm.name if arm else "" for arm in map(again.arm_of, users)]
    shares = [arms.count(name) / len(users) for name in ("control", "narrow", "")]
    # Four standard deviations of a share of 20,000 are below .014.
    np.testing.assert_allclose(shares, [0.4, 0.4, 0.2], atol=0.014)
    other = ab_experiment.load(experiment_file(salt="other"))
    moved = sum(
        a is not None and b is not None and a.name != b.name
        for a, b in zip(map(experiment.arm_of, users), map(other.arm_of, users), strict=True)
    )
    # Independent splits: different arms for 2 x .4 x .4 of all.
    assert abs(moved / len(users) - 0.32) < 0.014


def test_arms_differ_as_told_and_every_impression_says_which(running, experiment_file):
    experiment = ab_experiment.load(experiment_file())
    site = running(funnel_options={"experiment": experiment})
    expected = {}
    for number in range(30):
        user = f"user-{number}"
        page = ask(site, user, k=3, debug=True, record=True, context={"region": "de"}).json()
        arm = experiment.arm_of(user)
        expected[user] = [f"channels/{arm.name}"] if arm else []
        assert page["debug"]["exposures"] == expected[user]
        is_narrow = arm is not None and arm.name == "narrow"
        assert page["debug"]["nominated"]["retrieval"] == (5 if is_narrow else 48)
    assert len({tuple(exposures) for exposures in expected.values()}) == 3
    site.log.compact(flush=True)
    logged = logs.read_table(site.log.logs_dir, "impressions").to_pylist()
    assert {row["user_id"]: row["exposures"] or [] for row in logged} == expected


def test_arm_may_have_a_release_of_its_own(running, experiment_file, tiny):
    arms = [
        {"name": "control", "share": 0.5},
        {"name": "new", "share": 0.5, "release": "20231115000000"},
    ]
    experiment = ab_experiment.load(experiment_file(arms=arms))
    site = running(
        funnel_options={
            "experiment": experiment,
            "arm_releases": {"20231115000000": tiny.releases(tiny.release("20231115000000"))},
        }
    )
    releases = set()
    for number in range(20):
        arm = experiment.arm_of(f"u{number}")
        answered = ask(site, f"u{number}").json()["release_id"]
        assert answered == (arm.release or "20231114000000")
        releases.add(answered)
    assert len(releases) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "no/slashes"}, "names must be letters"),
        ({"arms": [{"name": "a", "share": 0.5}]}, "two or more arms"),
        ({"arms": [{"name": "a", "share": 0.5}] * 2}, "different names"),
        ({"arms": [{"name": "a", "share": 0.7}, {"name": "b", "share": 0.7}]}, "add up to 1"),
        ({"arms": [{"name": "a", "share": 0}, {"name": "b", "share": 1}]}, r"must be in \(0, 1\]"),
        ({"arms": [{"name": "a"}, {"name": "b", "share": 1}]}, "must be JSON with"),
        (
            {"arms": [{"name": "a", "share": 0.5}, {"name": "b", "share": 0.5,
             "settings": {"wdith": 1}}]},
            r"settings of b must be among .* got \['wdith'\]",
        ),
        (
            {"arms": [{"name": "a", "share": 0.5}, {"name": "b", "share": 0.5,
             "settings": {"per_channel": 1.5}}]},
            "per_channel of b must be a whole number",
        ),
        *(
            (
                {"arms": [{"name": "a", "share": 0.5},
                          {"name": "b", "share": 0.5, "release": wrong}]},
                "release of b must be a version in quotes",
            )
            for wrong in (20200101000000, "latest", "../7", "")
        ),
    ],
)  # fmt: skip
def test_experiment_that_breaks_a_rule_is_refused(experiment_file, changes, message):
    with pytest.raises(command.InputError, match=message):
        ab_experiment.load(experiment_file(**changes))


# ---- what a server is started with ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predicate": "no_such_module:f"}, "--filter=no_such_module:f must be MODULE:FUNCTION"),
        ({"history": "redis://127.0.0.1:1/0"}, "redis://127.0.0.1:1/0 cannot be reached"),
        ({"history": "redis://127.0.0.1:x/0"}, "must be redis://HOST:PORT/DATABASE"),
    ],
)
def test_server_that_cannot_have_what_it_was_told_does_not_start(
    published_root, tmp_path, changes, message
):
    given = {"history": tmp_path / "history.sqlite", **changes}
    config = service.ServiceConfig(serving_root=published_root, logs=tmp_path / "logs", **given)
    with pytest.raises(command.InputError, match=message):
        service.build(config)


@pytest.fixture
def served(published_root, tmp_path, experiment_file, tiny):
    """Builds a service with half of the users kept on a release."""
    built = []

    def make(version, root=published_root):
        arms = [
            {"name": "control", "share": 0.5},
            {"name": "kept", "share": 0.5, "release": version, "settings": {"per_channel": 1}},
        ]
        config = service.ServiceConfig(
            serving_root=root,
            logs=tmp_path / "logs",
            history=str(tmp_path / "history.sqlite"),
            experiment=experiment_file(arms=arms),
            settings=tiny.patient(),
        )
        built.append(service.build(config))
        return built[-1]

    yield make
    for one in built:
        one.on_close()


def pages_by_arm(built):
    """Pages of ten users, by the arm that the split gives them."""
    pages = {"control": [], "kept": []}
    for number in range(10):
        user = f"user-{number}"
        page = built.funnel.recommend(PageRequest(user_id=user, k=5, context={"region": "de"}))
        pages[built.funnel.experiment.arm_of(user).name].append(page)
    assert all(pages.values())
    return pages


def test_arm_whose_release_is_missing_is_served_by_the_current_one_loudly(
    serving_root, served, caplog
):
    built = served("20200101000000", serving_root)
    assert "Release 20200101000000, on which arms are kept, cannot be had" in caplog.text
    pages = pages_by_arm(built)
    for page in pages["kept"]:
        assert page.release_id == release.current(serving_root)
        assert page.falls == ("experiment",)
        assert "arm kept is kept on release 20200101000000" in page.reasons[0]
        assert page.exposures == ()  # It is no page of that arm.
        assert page.rung == "full"
    for page in pages["control"]:
        assert (page.falls, page.exposures) == ((), ("channels/control",))


def test_arm_keeps_its_release_through_publications_and_restarts(serving_root, served, tiny):
    version = release.current(serving_root)
    built = served(version, serving_root)
    assert release.pins(serving_root) == {"channels": [version]}
    for _ in range(5):
        new = tiny.publish(serving_root)
    assert version in release.versions(serving_root)
    for one in (built, served(version, serving_root)):
        one.releases.refresh()
        pages = pages_by_arm(one)
        assert {page.release_id for page in pages["kept"]} == {version}
        assert {page.release_id for page in pages["control"]} == {new}
        assert {page.exposures for page in pages["kept"]} == {("channels/kept",)}


def test_arm_whose_release_comes_back_is_served_by_it(tiny):
    there = []

    def load(version):
        if not there:
            raise release.ReleaseRefusedError("there is no release 7")
        return tiny.release(version)

    arm = ArmRelease("7", load=load, retry_s=0.0)
    arm.look()
    with pytest.raises(errors.NotReadyError, match="there is no release 7"), arm.pin():
        pass
    there.append(True)
    arm.look()
    with arm.pin() as pinned:
        assert pinned.version == "7"


def test_arm_whose_release_cannot_be_renewed_keeps_it(tiny):
    def renew(current):
        raise errors.ModelUnavailableError("gone")

    arm = ArmRelease("7", load=tiny.release, renew=renew, retry_s=0.0)
    arm.look()
    before = arm.current
    arm.look()
    assert arm.current is before


def test_server_that_may_not_write_to_the_serving_root_serves_and_says_who_should_pin(
    serving_root, served, tiny, caplog, monkeypatch
):
    version = release.current(serving_root)

    def refuse(*_):
        raise command.InputError("--serving_root cannot be written: Read-only file system.")

    monkeypatch.setattr(publication, "pin", refuse)
    assert {p.release_id for p in pages_by_arm(served(version, serving_root))["kept"]} == {version}
    assert "python -m serving.pin_releases" in caplog.text


def test_current_release_is_not_loaded_twice_for_an_arm(published_root, tmp_path, experiment_file):
    version = release.current(published_root)
    arms = [
        {"name": "control", "share": 0.5},
        {"name": "kept", "share": 0.5, "release": version},
    ]
    built = service.build(
        service.ServiceConfig(
            serving_root=published_root,
            logs=tmp_path / "logs",
            history=str(tmp_path / "history.sqlite"),
            experiment=experiment_file(arms=arms),
        )
    )
    try:
        assert built.funnel._arm_releases[version].current.index is built.releases.current.index
    finally:
        built.on_close()
