"""A real Prometheus with the repository's rules and dashboards, against the real service."""
