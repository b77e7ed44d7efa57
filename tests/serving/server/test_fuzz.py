"""The API against its own OpenAPI document: whatever is sent, nothing is the server's fault."""

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from schemathesis.generation import GenerationMode

EXAMPLES = 25


@pytest.fixture
def document(site):
    """The document of a running server, whose every answer is fuzzed over its real port."""
    config = schemathesis.Config.from_dict({"generation": {"mode": "all"}})
    return schemathesis.openapi.from_url(f"{site.url}/openapi.json", config=config)


def operations(document):
    return [found.ok() for found in document.get_all_operations()]


def test_every_operation_is_there(document):
    labels = {operation.label for operation in operations(document)}
    posts = {"POST /v1/recommendations", "POST /v1/related", "POST /v1/events"}
    assert {*posts, "GET /v1/users"} <= labels
    assert len(labels) >= 9


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_input_is_an_error_of_the_server(site, document, mode):
    answered = dict.fromkeys(range(2, 6), 0)
    for operation in operations(document):
        takes_anything = operation.body or list(operation.iter_parameters())
        if mode is GenerationMode.NEGATIVE and not takes_anything:
            continue  # There is nothing to get wrong.
        cases = operation.as_strategy(generation_mode=mode)

        @hypothesis.settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @hypothesis.given(case=cases)
        def ask(case):
            answer = case.call(base_url=site.url, timeout=300)
            if answer.status_code >= 400:
                assert answer.headers["content-type"] == ["application/problem+json"]
            if answer.status_code == 404 and mode is GenerationMode.POSITIVE:
                return  # A name that fits the document, of something that is not there.
            answered[answer.status_code // 100] += 1
            assert answer.status_code < 500, f"{case.as_curl_command()}: {answer.text}"

        ask()
    assert answered[5] == 0
    # What fits the document is mostly accepted, what does not is mostly refused.
    assert answered[2 if mode is GenerationMode.POSITIVE else 4] > sum(answered.values()) / 2
