"""`python -m digan`, the same as `digan`."""

import sys

from digan.cli import main

sys.exit(main())
