"""The `deepcorrect` command: results on stdout, everything else on stderr."""

from deepcorrect.cli._app import COMMANDS, main

__all__ = ["COMMANDS", "main"]
