"""Prometheus metrics and the JSON log of the service itself."""
