from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from serving.compat.perspective.errors import PerspectiveError, render_error
from serving.compat.perspective.schemas import AnalyzeCommentRequest, SuggestCommentScoreRequest
from serving.compat.perspective.translate import Analysis, Attributes, Suggestion
from serving.settings import SettingsError

SCORES = {
    "TOXICITY": 0.3,
    "SEVERE_TOXICITY": 0.01,
    "IDENTITY_ATTACK": 0.1,
    "INSULT": 0.2,
    "PROFANITY": 0.2,
    "THREAT": 0.04,
}
TABLE = Attributes.load(Path(__file__).parents[5] / "configs" / "perspective.yaml")
LANGUAGES = ("en", "nl")
OMITTING = TABLE.model_copy(update={"unsupported": "omit"})
ALIASING = TABLE.model_copy(update={"aliases": {"TOXICITY@6": "TOXICITY", "THREAT@2": "THREAT"}})


def request(text: str = "hi", **fields: Any) -> AnalyzeCommentRequest:
    body = {"comment": {"text": text}, "requestedAttributes": {"TOXICITY": {}}}
    return AnalyzeCommentRequest.model_validate(body | fields)


def reply(body: AnalyzeCommentRequest, table: Attributes = TABLE) -> dict[str, Any]:
    analysis = Analysis(body, table, LANGUAGES)
    spans = analysis.spans(99)
    return analysis.reply(SCORES, spans, [SCORES] * len(spans), "de")


def error_detail(body: AnalyzeCommentRequest) -> dict[str, Any]:
    """The message and the detail of the error that a request gets."""
    with pytest.raises(PerspectiveError) as caught:
        reply(body)
    code, content = render_error(caught.value)
    assert code == content["error"]["code"] == 400
    assert content["error"]["status"] == "INVALID_ARGUMENT"
    (detail,) = content["error"]["details"]
    assert detail["@type"] == "type.googleapis.com/google.commentanalyzer.v1alpha1.Error"
    return {"message": content["error"]["message"], **detail}


def test_each_attribute_has_its_own_score() -> None:
    rows = reply(request(requestedAttributes=dict.fromkeys(SCORES)))["attributeScores"]
    assert {name: row["summaryScore"] for name, row in rows.items()} == {
        name: {"value": v, "type": "PROBABILITY"} for name, v in SCORES.items()
    }


def test_an_alias_has_the_score_of_its_attribute() -> None:
    body = request(requestedAttributes={"TOXICITY@6": {}, "THREAT": {}})
    rows = reply(body, ALIASING)["attributeScores"]
    values = {name: row["summaryScore"]["value"] for name, row in rows.items()}
    assert values == {"TOXICITY@6": 0.3, "THREAT": 0.04}
    suggested = suggestion({"TOXICITY@6": 0, "THREAT@2": 0.1}, ALIASING)
    assert (suggested.label, suggested.attributes) == ("neither", {"TOXICITY": 0, "THREAT": 0.1})


def test_a_reply_has_perspectives_format() -> None:
    score = {"value": 0.3, "type": "PROBABILITY"}
    assert reply(request("hi 😀", clientToken="t", languages=["en-GB"])) == {
        "attributeScores": {
            "TOXICITY": {
                "spanScores": [{"begin": 0, "end": 5, "score": score}],
                "summaryScore": score,
            }
        },
        "languages": ["en-GB"],
        "detectedLanguages": ["de"],
        "clientToken": "t",
    }


def test_span_annotations_score_sentences_and_count_in_utf16() -> None:
    spans = reply(request("😀 hi. מה? bye", spanAnnotations=True))["attributeScores"]["TOXICITY"]
    assert [(row["begin"], row["end"]) for row in spans["spanScores"]] == [
        (0, 6),
        (7, 10),
        (11, 14),
    ]


def test_markup_is_not_scored_and_offsets_point_into_the_source() -> None:
    body = request(comment={"text": "<p>😀 i<b>di</b>ot.</p> Bye&#33;", "type": "HTML"})
    analysis = Analysis(body, TABLE, LANGUAGES)
    assert analysis.comment.text == "\n😀 idiot.\n Bye!"
    spans = analysis.comment.offsets(analysis.spans(9))
    assert spans == [(0, len("<p>😀 i<b>di</b>ot.</p> Bye&#33;") + 1)]


def test_scores_below_the_score_threshold_are_left_out() -> None:
    parameters = {"TOXICITY": {"scoreThreshold": 0.3}, "PROFANITY": {"scoreThreshold": 0.21}}
    assert list(reply(request(requestedAttributes=parameters))["attributeScores"]) == ["TOXICITY"]
    analysis = Analysis(
        request("a. b", spanAnnotations=True, requestedAttributes=parameters), TABLE, LANGUAGES
    )
    low = SCORES | {"TOXICITY": 0.1}
    rows = analysis.reply(low, analysis.spans(9), [low, SCORES], "en")["attributeScores"]
    assert [span["begin"] for span in rows["TOXICITY"]["spanScores"]] == [3]
    assert "summaryScore" not in rows["TOXICITY"]


def test_both_spellings_and_null_are_accepted_and_unknown_fields_refused() -> None:
    body = {"comment": {"text": "x"}, "requested_attributes": {"TOXICITY": None}, "context": None}
    assert "TOXICITY" in reply(AnalyzeCommentRequest.model_validate(body))["attributeScores"]
    with pytest.raises(ValidationError, match="sentiment"):
        request(sentiment=1)


@pytest.mark.parametrize(
    ("fields", "error_type", "message"),
    [
        ({"comment": {"text": ""}}, "COMMENT_EMPTY", "Comment must be non-empty."),
        ({"comment": {"text": " \n"}}, "COMMENT_EMPTY", "Comment must be non-empty."),
        ({"comment": None}, "COMMENT_EMPTY", "Comment must be non-empty."),
        (
            {"comment": {"text": "<br>", "type": "HTML"}},
            "COMMENT_EMPTY",
            "Comment must be non-empty.",
        ),
        ({"comment": {"text": "x", "type": "RTF"}}, "INVALID_REQUEST", "Unknown text type"),
        (
            {"requestedAttributes": {}},
            "NO_REQUESTED_ATTRIBUTES",
            "Missing requested_attributes",
        ),
        (
            {"requestedAttributes": {"FLIRTATION": {}}},
            "INVALID_REQUEST",
            "Unknown requested attribute: FLIRTATION",
        ),
        (
            {"requestedAttributes": {"TOXICITY": {"scoreType": "STD_DEV_SCORE"}}},
            "INVALID_REQUEST",
            "Requested score type STD_DEV_SCORE is not supported by attribute TOXICITY",
        ),
        (
            {"context": {"entries": [{}], "articleAndParentComment": {}}},
            "INVALID_REQUEST",
            "Context can have either entries or article_and_parent_comment, but both fields were "
            "populated.",
        ),
    ],
)
def test_invalid_requests_get_perspectives_errors(
    fields: dict[str, Any], error_type: str, message: str
) -> None:
    detail = error_detail(request(**fields))
    assert (detail["errorType"], detail["message"]) == (error_type, message)


def test_a_request_needs_one_language_that_the_model_supports() -> None:
    detail = error_detail(request(languages=["de", "fr"]))
    assert detail["message"] == "Attribute TOXICITY does not support request languages: de, fr"
    assert detail["errorType"] == "LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE"
    assert detail["languageNotSupportedByAttributeError"] == {
        "requestedLanguages": ["de", "fr"],
        "attribute": "TOXICITY",
    }
    assert reply(request(languages=["de", "nl-BE"]))["languages"] == ["de", "nl-BE"]
    assert reply(request())["languages"] == ["en"]


def test_unsupported_attributes_can_be_omitted() -> None:
    both = request(requestedAttributes={"FLIRTATION": {}, "TOXICITY": {}})
    assert list(reply(both, OMITTING)["attributeScores"]) == ["TOXICITY"]
    only = request(requestedAttributes={"FLIRTATION": {}})
    assert reply(only, OMITTING)["attributeScores"] == {}


def suggestion(
    scores: dict[str, float | None], table: Attributes = TABLE, **fields: Any
) -> Suggestion:
    suggested = {name: {"summaryScore": {"value": value}} for name, value in scores.items()}
    body = {"comment": {"text": "x"}, "attributeScores": suggested}
    return Suggestion(SuggestCommentScoreRequest.model_validate(body | fields), table, LANGUAGES)


@pytest.mark.parametrize(
    ("scores", "label"),
    [
        ({"TOXICITY": 0}, "neither"),
        ({"TOXICITY": 1}, "hate+offensive"),
        ({"TOXICITY": 1, "IDENTITY_ATTACK": 0.5}, "hate"),
        ({"TOXICITY": 0.9, "IDENTITY_ATTACK": 0.1}, "offensive"),
        ({"IDENTITY_ATTACK": 0}, "offensive+neither"),
        ({"TOXICITY": 0.1, "PROFANITY": 1}, "neither"),
        ({"THREAT": 1, "INSULT": 0}, "hate+offensive+neither"),
    ],
)
def test_a_suggestion_has_every_label_that_it_allows(
    scores: dict[str, float | None], label: str
) -> None:
    assert suggestion(scores).label == label


def test_a_suggestion_keeps_its_scores_and_returns_the_token_and_the_languages() -> None:
    note = suggestion({"TOXICITY": 0.25}, communityId="/movies").note
    assert note == "suggestscore in /movies: TOXICITY=0.25"
    assert suggestion({"TOXICITY": 1}, clientToken="t").reply() == {"clientToken": "t"}
    assert suggestion({"TOXICITY": 1}, languages=["en"]).reply() == {"requestedLanguages": ["en"]}


@pytest.mark.parametrize(
    "scores",
    [
        {},
        {"TOXICITY": None},
        {"TOXICITY": 2},
        {"TOXICITY": 0, "IDENTITY_ATTACK": 1},
        {"FLIRTATION": 1},
    ],
)
def test_suggestions_without_a_usable_score_are_refused(scores: dict[str, float | None]) -> None:
    with pytest.raises(PerspectiveError):
        suggestion(scores)
    with pytest.raises(PerspectiveError):
        suggestion(scores, OMITTING)


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ("unsupported: omit\naliases: {TOXICITY@6: RUDE}", "aliases.TOXICITY@6"),
        ("unsupported: omit\naliases: {toxicity: TOXICITY}", "aliases.toxicity"),
        ("attributes: {TOXICITY: [hate]}\nunsupported: omit", "attributes"),
        ("unsupported: ignore", "unsupported"),
        ("unsupported: omit\nlanguages: [en]", "languages"),
        ("{", "not YAML"),
    ],
)
def test_an_invalid_table_is_an_error_that_names_the_key(
    tmp_path: Path, content: str, key: str
) -> None:
    path = tmp_path / "table.yaml"
    path.write_text(content)
    with pytest.raises(SettingsError, match=key):
        Attributes.load(path)
    with pytest.raises(SettingsError, match="absent"):
        Attributes.load(tmp_path / "absent")
