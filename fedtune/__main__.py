"""`python -m fedtune` is the `fedtune` command."""

from fedtune.cli import main

if __name__ == "__main__":
    main()
