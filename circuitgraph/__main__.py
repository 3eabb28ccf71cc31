"""`python -m circuitgraph`, where the console script is not on the path."""

from __future__ import annotations

import sys

from circuitgraph.cli import main

sys.exit(main())
