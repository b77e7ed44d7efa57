import pytest

from features import command
from features.id_spaces import IdSpace, VocabularyConfig
from features.spec import ResolvedSpec

SPACES = (IdSpace(name="video"), IdSpace(name="search_token", min_count=2))


def applied(**settings):
    return {s.name: s for s in VocabularyConfig(**settings).applied(SPACES)}


def test_settings_change_what_they_name_and_nothing_else():
    changed = applied(max_size={"video": 5}, min_count={"search_token": 7})
    assert changed["video"] == IdSpace(name="video", max_size=5)
    assert changed["search_token"] == IdSpace(name="search_token", min_count=7)
    assert tuple(applied().values()) == SPACES


def test_an_approximate_space_has_no_frequency_cut():
    changed = applied(approximate=["search_token"], max_size={"search_token": 200_000})
    assert changed["search_token"].approximate
    assert changed["search_token"].min_count == 1
    assert not changed["video"].approximate


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_size": {"vidoe": 5}}, "max_size names 'vidoe'.*are video, search_token"),
        ({"approximate": ["topics"]}, "approximate_vocabularies names 'topics'"),
        ({"max_size": {"video": 0}}, "max_size: video must be 1 or more, got 0"),
        ({"approximate": ["video"]}, "1000000 ids.*vocabulary_max_size=video=200000"),
        (
            {
                "approximate": ["search_token"],
                "max_size": {"search_token": 9},
                "min_count": {"search_token": 3},
            },
            "min_count=search_token=3 cannot be applied",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_the_spaces_there_are(settings, message):
    with pytest.raises(command.InputError, match=message):
        applied(**settings)


def test_sizes_are_kept_in_the_spec():
    resolved = ResolvedSpec(features=(), spaces=tuple(applied(max_size={"video": 5}).values()))
    assert ResolvedSpec.from_json(resolved.to_json()) == resolved
