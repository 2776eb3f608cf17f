"""Perspective API (Google's Comment Analyzer), which closes on 31 December 2026.

    routes -> translate (spans, errors, schemas) -> classifier
    discovery   the document from which Google's client libraries learn the API
    thresholds  the report of `tweet-tagger map-thresholds` (commands)

Delete this folder to remove the API.
"""
