"""Prometheus metrics and the JSON log."""
