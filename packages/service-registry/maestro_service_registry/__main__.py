"""`python -m maestro_service_registry` is `maestro-registry`."""

import sys

from ._cli import main

sys.exit(main())
