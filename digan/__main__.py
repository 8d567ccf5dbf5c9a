"""Run `digan` as `python -m digan`."""

import sys

from digan.cli.main import main

sys.exit(main())
