"""Run the command line: `python -m verifier`."""

from verifier.cli.main import main

if __name__ == "__main__":  # pragma: no branch - never imported
    main()
