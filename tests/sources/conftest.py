"""Tests with libraries that the other tests do without (`make test-sources` installs them)."""

import os

collect_ignore_glob = [] if os.environ.get("KERAS_DP_SOURCES") else ["test_*.py"]
