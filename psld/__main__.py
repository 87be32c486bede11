"""`python -m psld COMMAND KEY=VALUE …`: the program `psld`."""

import os
import sys

# With -m, Python puts the working folder first in sys.path. Its files must not shadow packages.
if not sys.flags.safe_path and sys.path[0] == os.path.abspath(""):  # noqa: PTH100
    del sys.path[0]

from psld.commands.main import main

if __name__ == "__main__":
    main()
