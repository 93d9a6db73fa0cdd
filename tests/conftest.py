"""Settings of the whole suite."""

from __future__ import annotations

import os

# Tiny models gain nothing from a second thread, and spinning threads slow each other down on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nothing here may reach for the network by accident; tests of the Hub's client name their own endpoint.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
