"""`python -m taemi_lib` is the command `taemi`."""

import sys

from taemi_lib.cli import main

sys.exit(main())
