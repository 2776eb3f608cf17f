"""A real Prometheus against the real service. The tests run only with `make observability-test`."""

import os

collect_ignore_glob = [] if os.environ.get("OBSERVABILITY") else ["test_*.py"]
