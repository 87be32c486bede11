"""`python -m psld COMMAND KEY=VALUE …`: the program `psld`."""

import os
import sys

# With -m, Python puts the working folder first in sys.path. Remove it, so that its files do not
# shadow packages.
if not sys.flags.safe_path and sys.path[0] == os.path.abspath(""):  # noqa: PTH100
    del sys.path[0]

if __name__ == "__main__":
    from psld.cluster.forks import SERVE, run_in_fork

    if sys.argv[1:2] == [SERVE]:
        from psld.commands.fork_server import serve

        sys.argv[1:] = serve(sys.argv[2])
    else:
        run_in_fork(sys.argv[1:])
    from psld.commands.main import main

    main()
