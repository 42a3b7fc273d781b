"""The ranking behind the galleries."""

from __future__ import annotations

import numpy as np

from transfer.report.disagreement import most


def test_ranking_is_by_difference_then_order_and_only_gains():
    ours, theirs = np.array([1.0, 3, 2, 0, 3, 5]), np.array([1.0, 1, 0, 4, 1, 2])
    assert most(ours, theirs, 3) == [5, 1, 2] and most(ours, theirs, 9) == [5, 1, 2, 4]
    assert most(theirs, ours, 9) == [3] and most(ours, ours, 9) == []
