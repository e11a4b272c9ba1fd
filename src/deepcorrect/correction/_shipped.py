"""Adapters that the package ships, by name: `efficientnet_lite0/blur-noise`."""

from __future__ import annotations

from pathlib import Path

from deepcorrect.runtime import files

FOLDER = Path(__file__).parent / "shipped"
CONFIG_FILE = "adapter_config.json"


def shipped_adapters() -> dict[str, str]:
    """The names of the adapters that the package ships, `NETWORK/NAME`, each with a description.

    Example:
        >>> import deepcorrect as dc
        >>> dc.correction.shipped_adapters()["efficientnet_lite0/blur-noise"]
        'Gaussian blur and noise'
    """
    return {
        name: files.read_json(folder / CONFIG_FILE)["notes"]["summary"]
        for name, folder in _folders().items()
    }


def shipped_folder(source: str | Path) -> Path | None:
    """The folder of a shipped adapter; None if there is none of this name.

    A folder of this name in the current directory goes before it.
    """
    if Path(source).exists():
        return None
    return _folders().get(source if isinstance(source, str) else source.as_posix())


def _folders() -> dict[str, Path]:
    """The folders of the shipped adapters by name."""
    found = sorted(path.parent for path in FOLDER.glob(f"*/*/{CONFIG_FILE}"))
    return {folder.relative_to(FOLDER).as_posix(): folder for folder in found}
