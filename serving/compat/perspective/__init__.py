"""Perspective API (Google's Comment Analyzer), which closes on 31 December 2026.

    routes -> translate (spans, errors, schemas) -> classifier
    discovery   what Google's client libraries ask for first
    thresholds  before a team moves: which threshold here replaces one there (commands)

Delete this folder to remove the API.
"""
