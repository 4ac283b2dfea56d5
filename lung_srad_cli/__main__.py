"""`python -m lung_srad_cli` is the `lung-srad` command."""

import sys

from lung_srad_cli import main

sys.exit(main())
