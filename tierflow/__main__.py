"""``python -m tierflow``."""

import sys

from tierflow.cli import main

if __name__ == "__main__":
    sys.exit(main())
