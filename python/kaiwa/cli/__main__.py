"""`python -m kaiwa.cli` is the same as `kaiwa`."""

import sys

from kaiwa.cli.main import main

sys.exit(main())
