"""`python -m psld COMMAND …`, the same as the program `psld`."""

from psld.commands.main import main

if __name__ == "__main__":
    main()
