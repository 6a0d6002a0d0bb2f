"""What torch reads from the environment when it is imported or first allocates. This module imports
no torch."""

import os
from typing import Final

SPINS: Final = "50000"
"""How often a thread looks for work before it sleeps: some tenths of a millisecond."""


def set_defaults() -> None:
    """Sets what the environment does not say; to be called before torch is imported."""
    # Weights and caches are read from end to end at every step: on pages of 4 KiB each look-up of
    # an address would miss.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # A thread that spins for long while it waits for another keeps that one from its core once
    # something else wants one, too: 70 ms became seconds. One that sleeps at once is slow to wake:
    # a close took a third longer.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
