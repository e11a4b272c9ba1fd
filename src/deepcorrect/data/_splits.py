"""DATA specs of folders with numbered splits: `DIR[:train|test[:NUMBER]]`."""

from __future__ import annotations

import re
from pathlib import Path

SPEC = re.compile(r"(?P<folder>.+?)(?::(?P<split>train|test)(?::(?P<number>\d+))?)?")


def folder_and_split(rest: str) -> tuple[Path, str | None, int | None]:
    """The folder, the split and the number in a spec; a folder's own name may look like a split.

    Example:
        >>> from deepcorrect.data._splits import folder_and_split
        >>> folder, split, number = folder_and_split("pictures:train:3")
        >>> folder.name, split, number
        ('pictures', 'train', 3)
    """
    found = None if Path(rest).expanduser().is_dir() else SPEC.fullmatch(rest)
    if found is None:
        return Path(rest).expanduser(), None, None
    number = None if found["number"] is None else int(found["number"])
    return Path(found["folder"]).expanduser(), found["split"], number
