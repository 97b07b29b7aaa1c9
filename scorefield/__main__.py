"""``python -m scorefield``."""

import sys

from scorefield.cli import main

if __name__ == "__main__":
    sys.exit(main())
