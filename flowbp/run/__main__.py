"""`python -m flowbp.run`: see `flowbp.run.main`."""

from __future__ import annotations

import sys

from flowbp.run import main

if __name__ == "__main__":
    sys.exit(main())
