"""Random requests: no 5xx, no hang, and no text changes the score of another.

FUZZ_CASES is the total number of cases; `make test` runs some hundred, and
`FUZZ_CASES=10000 pytest tests/integration/test_fuzz.py` is the long run. The random tables of
tests/unit/serving/test_tables.py are an eighth of it for each test.
"""

import hashlib
import json
import os
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode, checks
from schemathesis.specs.openapi import checks as openapi_checks

from tests.support.service import Served

CASES = int(os.environ.get("FUZZ_CASES", "400"))
pytestmark = pytest.mark.timeout(max(600, CASES // 4))  # seconds of a test: one for each case
NEIGHBOUR = "you absolute clown"
KEY = "a-key-for-everything"
RELAXED = settings(
    deadline=None,
    database=None,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)
CHECKS = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.negative_data_rejection,
]


@pytest.fixture(scope="module")
def fuzzed(serve: Callable[..., Served]) -> Served:
    """A service with a long queue and without a cache."""
    return serve(CACHE_SIZE="0", MAX_QUEUE_SECONDS="60")


@pytest.fixture(scope="module")
def open_to_key(serve: Callable[..., Served]) -> Served:
    """The same with a key for every scope."""
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    keys = f"fuzz:{digest}:predict+feedback+review+admin"
    return serve(CACHE_SIZE="0", MAX_QUEUE_SECONDS="60", API_KEYS=keys)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_every_reply_conforms_to_the_openapi_document(
    fuzzed: Served, open_to_key: Served, mode: GenerationMode
) -> None:
    """For each operation, with valid requests of a key for everything, and with invalid ones.

    A missing key is one way to be invalid, so the latter have none.
    """
    is_valid = mode is GenerationMode.POSITIVE
    service = open_to_key if is_valid else fuzzed
    headers = {"authorization": f"Bearer {KEY}"} if is_valid else {}
    document = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    # 413 too: a list may be longer than the operator's limit.
    document.config.checks.negative_data_rejection.expected_statuses.append("413")
    operations = [result.ok() for result in document.get_all_operations()]
    each = settings(RELAXED, max_examples=max(5, CASES // 4 // len(operations)))
    broken, before = [], service.metric("tagger_requests_total")
    for operation in operations:

        @given(case=operation.as_strategy(generation_mode=mode))
        @each
        def check(case: Any) -> None:
            case.call_and_validate(checks=CHECKS, timeout=30, headers=headers)

        try:
            check()
        except Unsatisfiable:  # a request without parameters cannot be invalid
            assert mode is GenerationMode.NEGATIVE
        except Exception as error:
            broken.append(f"{operation.label}: {error}")
    assert not broken, "\n\n".join(broken)
    assert service.metric("tagger_requests_total") - before > 5 * each.max_examples


TEXT = st.one_of(
    st.text(max_size=300),
    st.text(st.characters(codec=None), max_size=50),  # lone surrogates too
    st.sampled_from(["", " ", "\0", "😂" * 200, "\u202e", "x" * 10_001, "@" * 5000, "a " * 4000]),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def expected(fuzzed: Served) -> dict[str, float]:
    return fuzzed.scores(NEIGHBOUR)[0]


def checked_status(reply: httpx.Response) -> int:
    """The status of a reply, which is an answer or has the error shape."""
    assert reply.status_code in {200, 400, 413, 422}, reply.text
    if reply.status_code != 200:
        assert set(reply.json()["error"]) <= {"type", "message", "field"}
    return reply.status_code


@given(texts=st.lists(TEXT, max_size=6), place=st.integers(0, 6))
@settings(RELAXED, max_examples=CASES // 4)
def test_no_text_changes_the_score_of_another(
    fuzzed: Served, expected: dict[str, float], texts: list[str], place: int
) -> None:
    place = min(place, len(texts))
    body = json.dumps({"texts": [*texts[:place], NEIGHBOUR, *texts[place:]], "do_not_store": True})
    reply = fuzzed.http.post(
        "/v1/predict", content=body, headers={"content-type": "application/json"}
    )
    if checked_status(reply) == 200:
        rows = reply.json()["predictions"]
        assert len(rows) == len(texts) + 1
        assert rows[place]["scores"] == pytest.approx(expected, abs=1e-4)
        assert all(sum(row["scores"].values()) == pytest.approx(1, abs=1e-5) for row in rows)
    else:  # a refused list has a text that cannot be scored
        assert any(
            not text.strip() or len(text) > 10_000 or any("\ud800" <= c <= "\udfff" for c in text)
            for text in texts
        )


@given(content=st.one_of(JSON.map(json.dumps).map(str.encode), st.binary(max_size=300)))
@settings(RELAXED, max_examples=CASES // 8)
def test_any_body_gets_an_answer_or_an_error(fuzzed: Served, content: bytes) -> None:
    reply = fuzzed.http.post(
        "/v1/predict", content=content, headers={"content-type": "application/json"}
    )
    assert checked_status(reply) != 200 or b"texts" in content


HEADERS = ["x-request-id", "content-type", "authorization", "x-forwarded-for", "content-encoding"]


@given(
    name=st.sampled_from(HEADERS),
    value=st.binary(max_size=100).filter(lambda value: not {0, 10, 13} & set(value)),
)
@settings(RELAXED, max_examples=CASES // 8)
def test_any_header_value_gets_an_answer(fuzzed: Served, name: str, value: bytes) -> None:
    received = fuzzed.raw(
        b"POST /v1/predict HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 17\r\n"
        + name.encode() + b": " + value + b'\r\n\r\n{"texts": ["ok"]}'
    )  # fmt: skip
    assert int(received.split()[1]) in {200, 400, 415}, received


LINE = st.sampled_from(
    [b"POST /v1alpha1/comments:analyze?key=x HTTP/1.1", b"GET /v1alpha1/x", b"POST //[", b""]
)
CALL = st.tuples(LINE, st.binary(max_size=60)).map(lambda pair: pair[0] + b"\n" + pair[1])


def batch_of(calls: list[bytes]) -> bytes:
    head = b"--b\r\nContent-Type: application/http\r\n\r\n"
    return b"".join(head + call + b"\r\n" for call in calls) + b"--b--"


@given(calls=st.one_of(st.lists(CALL, max_size=6), st.binary(max_size=300)))
@settings(RELAXED, max_examples=CASES // 8)
def test_any_batch_gets_a_reply_for_each_call_or_an_error(
    fuzzed: Served, calls: list[bytes] | bytes
) -> None:
    headers = {"content-type": "multipart/mixed; boundary=b"}
    content = calls if isinstance(calls, bytes) else batch_of(calls)
    reply = fuzzed.http.post("/batch", content=content, headers=headers)
    assert reply.status_code in {200, 400}, reply.text
    if reply.status_code == 200:
        assert b"\r\nHTTP/1.1 5" not in reply.content
        assert reply.content.count(b"\r\nHTTP/1.1 ") == content.count(b"--b\r\n")
