"""The `deepcorrect` command: results on stdout, everything else on stderr."""

from typing import Any

from deepcorrect.cli import _stopping


def main() -> None:
    """The console script."""
    with _stopping.in_charge():
        from deepcorrect.cli._app import main as start

        start()


def __getattr__(name: str) -> Any:
    if name == "COMMANDS":
        from deepcorrect.cli._app import COMMANDS

        return COMMANDS
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["COMMANDS", "main"]  # pyright: ignore[reportUnsupportedDunderAll]
