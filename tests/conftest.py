"""What holds for all tests: some thousand collected items are not searched again at each garbage collection.

Knows: the garbage collector. Does not know: any test.
"""

from __future__ import annotations

import gc


def pytest_collection_finish() -> None:
    """Leave all that is there out of later collections, which took 0.4 s each."""
    gc.collect()
    gc.freeze()
