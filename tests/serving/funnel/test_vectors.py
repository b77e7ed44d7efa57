"""Vectors of users: from the profile or the request, into the models' inputs, or refused."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from features import spec
from features.as_of import examples
from features.spec import Feature, Kind, Side
from serving import errors
from serving.funnel.viewer import Profiles
from serving.history.user_history import unknown_user

INTERESTS = Feature(
    name="interests",
    kind=Kind.VECTOR,
    width=2,
    side=Side.QUERY,
    models=(spec.CANDIDATE,),
    source="users.interests",
)


@pytest.fixture
def release(tiny):
    made = tiny.release()
    resolved = dataclasses.replace(made.resolved, features=(*made.resolved.features, INTERESTS))
    users = pa.table({"user_id": ["u"], "region": ["DE"], "interests": [[1.0, 2.0]]})
    return dataclasses.replace(made, resolved=resolved, profiles=Profiles(users))


def vector_of(release, user_id, tiny, **context):
    viewer = release.viewer(unknown_user(user_id), now=tiny.now, context=context)
    batch = examples.query_batch(
        release.resolved,
        spec.CANDIDATE,
        request=viewer.request,
        users=viewer.users,
        history=viewer.history,
    )
    return viewer, batch[spec.vector_column(Side.QUERY, Kind.VECTOR)].to_pylist()[0]


def test_a_vector_of_the_profile_is_read_and_one_of_the_request_stands_before_it(release, tiny):
    viewer, found = vector_of(release, "u", tiny)
    assert found == [1.0, 2.0]
    assert not viewer.is_unknown
    _, found = vector_of(release, "u", tiny, vectors={"interests": [3.0, 4.0]}, region="US")
    assert found == [3.0, 4.0]
    viewer, found = vector_of(release, "stranger", tiny, vectors={"interests": [5.0, 6.0]})
    assert found == [5.0, 6.0]
    assert viewer.known_by == "context"
    viewer, found = vector_of(release, "stranger", tiny)
    assert np.isnan(found).all()
    assert viewer.is_unknown


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"interests": [1.0]}, "2 finite numbers in 'interests', got 1"),
        ({"interests": [1.0, 1e39]}, "2 finite numbers in 'interests', got 2"),
        ({"taste": [1.0, 2.0]}, r"'taste'.* it reads \['interests'\]"),
        ({"region": [1.0, 2.0]}, r"'region'.* it reads \['interests'\]"),
    ],
)
def test_a_vector_that_the_release_cannot_read_is_one_message(release, tiny, given, says):
    with pytest.raises(errors.InvalidRequestError, match=says):
        vector_of(release, "u", tiny, vectors=given)
