"""python -m maestro_orchestration_core: the command line."""

import sys

from ._cli import main

sys.exit(main())
