"""`python -m prefork`: the same as the command `prefork`.

Knows: the command line's entry. Does not know: commands.
"""

from __future__ import annotations

import sys

from prefork.cli import main

if __name__ == "__main__":
    sys.exit(main())
