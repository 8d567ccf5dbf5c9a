"""Settings that must come before PyTorch is loaded."""

import os

# Threads that spin while they wait make tests on a busy machine many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
