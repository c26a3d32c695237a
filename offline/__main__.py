"""`python -m offline` is `offline`."""

from offline.cli import main

if __name__ == "__main__":
    main()
