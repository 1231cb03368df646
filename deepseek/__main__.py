"""`python -m deepseek`: the command line, for when its script is not on the path."""

from deepseek.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
