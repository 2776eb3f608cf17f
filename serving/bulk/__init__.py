"""Scoring of whole files: rows in, part files out, in this process or on a Ray cluster."""
