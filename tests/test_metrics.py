"""What training measures of itself."""

from __future__ import annotations

import numpy as np

from simpl_core.metrics import peak_memory


def test_peak_memory_counts_what_was_held_and_does_not_fall() -> None:
    before = peak_memory()
    held = np.ones(int(before + 100) << 17)  # of 8 bytes: 100 MiB more than ever before
    during = peak_memory()
    assert during >= before + 100
    del held
    assert peak_memory() >= during
