"""`python -m digan`, the same as `digan`."""

import sys

from digan.cli.main import main

sys.exit(main())
