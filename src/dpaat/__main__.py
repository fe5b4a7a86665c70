"""`python -m dpaat`."""

import sys

from dpaat.cli import main

sys.exit(main())
