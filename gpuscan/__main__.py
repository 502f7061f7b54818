"""``python -m gpuscan``: the command line where no script is installed."""

from __future__ import annotations

import sys

from gpuscan.cli.main import main

sys.exit(main())
