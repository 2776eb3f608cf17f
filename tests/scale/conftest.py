"""A Ray cluster of two nodes on this machine. The tests run only with `make scale-test`."""

import os

collect_ignore_glob = [] if os.environ.get("SCALE") else ["test_*.py"]
