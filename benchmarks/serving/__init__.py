"""The benchmark of the service and its peers: `python -m benchmarks.serving`, or `make bench`."""
