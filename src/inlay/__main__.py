"""`python -m inlay` is `inlay`."""

import sys

from .cli import main

sys.exit(main())
