"""What users did, by the tables that say how each column is computed."""

from features import feedback, spec
from features.as_of import query_history
from features.spec import Side


def columns(*, categorical):
    return {
        feature.column
        for feature in spec.FEATURES
        if feature.origin == "history"
        and feature.side is Side.QUERY
        and feature.categorical is categorical
    }


def test_what_is_declared_of_the_history_is_computed():
    assert columns(categorical=True) <= query_history.BAGS.keys()
    of_user = {*spec.grid_names("any"), *feedback.names("any")}
    assert columns(categorical=False) == of_user | query_history.NUMBERS.keys()
