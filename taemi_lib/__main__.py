"""`python -m taemi_lib` is the command `taemi`."""

import sys

from .course import main

sys.exit(main())
