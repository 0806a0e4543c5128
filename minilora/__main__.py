"""`python -m minilora` is the command line."""

import sys

from minilora.cli import main

sys.exit(main())
