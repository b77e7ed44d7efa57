"""Which watches are labels, where nobody has said so."""

import pytest

from features.tables.site_facts import SHORT_LIVED_S, SiteFacts
from pipeline.preprocessing.config import PreprocessConfig


@pytest.mark.parametrize(
    ("half_life_s", "completed_only"),
    [(None, True), (3 * 3600.0, False), (SHORT_LIVED_S - 1, False), (SHORT_LIVED_S, True)],
)
def test_all_watches_are_labels_where_they_are_forgotten_within_hours(half_life_s, completed_only):
    site = SiteFacts(half_life_s=half_life_s, repeat_share=0.0, watches=1000)
    assert PreprocessConfig().for_site(site).completed_only is completed_only
    for said in (True, False):
        assert PreprocessConfig(completed_only=said).for_site(site).completed_only is said
