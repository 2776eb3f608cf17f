"""The JSON log: one object per record, on one line."""

import json
import logging
import sys

from serving.observability.json_logging import JsonFormatter


def record(message: str, *arguments: object) -> logging.LogRecord:
    made = logging.LogRecord("serving.app", logging.WARNING, "", 0, message, arguments, None)
    made.created, made.msecs = 1_767_323_045.678, 678.0
    return made


def test_a_record_is_one_line_with_time_level_logger_and_message() -> None:
    line = JsonFormatter().format(record("two\nlines of %s", "wörds"))
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2026-01-02T03:04:05.678Z",
        "level": "warning",
        "logger": "serving.app",
        "message": "two\nlines of wörds",
    }


def test_extra_fields_are_part_of_the_object() -> None:
    made = record("a request")
    made.status, made.route = 200, "/v1/predict"
    line = json.loads(JsonFormatter().format(made))
    assert (line["status"], line["route"]) == (200, "/v1/predict")


def test_an_exception_is_a_field() -> None:
    made = record("failed")
    try:
        int("ten")
    except ValueError:
        made.exc_info = sys.exc_info()
    line = JsonFormatter().format(made)
    assert "\n" not in line
    assert "ValueError: invalid literal" in json.loads(line)["exception"]
