"""Shows docstrings' `Example:` sections as examples, with copy buttons, rather than as boxes."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Google's style has a section `Examples`; the package's docstrings have one or none."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            value = obj.docstring.value
            obj.docstring.value = re.sub(r"(?m)^(\s*)Example:$", r"\1Examples:", value)
