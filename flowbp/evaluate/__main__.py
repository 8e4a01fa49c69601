"""`python -m flowbp.evaluate`: see `flowbp.evaluate.main`."""

from __future__ import annotations

import sys

from flowbp.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
