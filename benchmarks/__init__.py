"""Benchmarks: `make bench` measures the service and its peers, `make bench WHAT=…` the rest."""
