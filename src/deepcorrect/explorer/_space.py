"""The explorer as a folder for a Hugging Face Space, which starts the same page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from deepcorrect.correction import ADAPTER_FILES
from deepcorrect.data import images_in
from deepcorrect.explorer._folder import unused_name
from deepcorrect.ranking import RANKING_FILE
from deepcorrect.runtime import InputError, files

RESULTS_FILE = "results.json"
GRADIO = "6.31.0"
"""The version that a Space gets where this machine has no Gradio."""

APP = '''"""The DeepCorrect explorer. `deepcorrect explore --export-space` wrote this file."""

import os
import sys

from deepcorrect.cli import main

ARGUMENTS = {arguments}

os.chdir(os.path.dirname(os.path.abspath(__file__)))
host = os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0")
port = os.environ.get("GRADIO_SERVER_PORT", "7860")
sys.argv = ["deepcorrect", "explore", *ARGUMENTS, "--host", host, "--port", port]
main()
'''

README = """---
title: DeepCorrect explorer
colorFrom: green
colorTo: blue
sdk: gradio
sdk_version: {gradio}
python_version: "3.11"
app_file: app.py
license: apache-2.0
---

# DeepCorrect explorer

Distort a picture, and see what a network says of it with and without its correction.

`deepcorrect explore --export-space` wrote this folder. Upload it to a Space of the kind Gradio, or
start it here: `pip install -r requirements.txt`, then `python app.py`.
"""


@dataclass(frozen=True)
class Copied:
    """An option that names something on this machine, which is copied into the Space.

    Attributes:
        flag: The option, such as `--adapter`.
        source: A file or folder.
        form: What the option says, with `{}` for the path of the copy.
    """

    flag: str
    source: Path
    form: str = "{}"


def write_space(
    folder: Path,
    options: Sequence[str],
    copied: Sequence[Copied],
    release: str,
    extras: Sequence[str] = (),
) -> Path:
    """Writes a folder for a Hugging Face Space that starts the explorer with these options.

    Of an adapter, a ranking, a run and a folder of images, only what the explorer reads is copied.
    The folder is there when all is copied.

    Args:
        folder: The folder; it must not exist, or be empty.
        options: Options of `deepcorrect explore` that name nothing on this machine.
        copied: Options that do.
        release: The version of the package that the Space installs.
        extras: Extras of the package that the network needs.

    Returns:
        The folder.

    Raises:
        InputError: The folder has files or cannot be written, or something to copy does not exist.

    Example:
        >>> from pathlib import Path
        >>> from deepcorrect.explorer import write_space
        >>> folder = write_space(Path("space"), ["--model", "digits_cnn"], [], "1.0")
        >>> sorted(path.name for path in folder.iterdir())
        ['README.md', 'app.py', 'requirements.txt']
    """
    with files.new_folder(folder) as filled:
        arguments = [*options, *_copy(copied, filled)]
        lines = json.dumps(arguments, indent=4)
        files.write_text(filled / "app.py", APP.format(arguments=lines))
        files.write_text(filled / "README.md", README.format(gradio=_gradio()))
        wanted = ",".join(["explore", *extras])
        files.write_text(filled / "requirements.txt", f"deepcorrect-torch[{wanted}]=={release}\n")
    return folder


def _copy(copied: Sequence[Copied], folder: Path) -> list[str]:
    """Copies what the options name into a folder, and returns the options for it there."""
    arguments: list[str] = []
    taken: dict[str, Path] = {}
    for each in copied:
        if not each.source.exists():
            raise InputError(f"{each.flag}: there is no {each.source}")
        name = f"{each.flag.lstrip('-')}/{each.source.resolve().name}"
        name = unused_name(name, taken)
        taken[name] = each.source
        for source, inside in _files_of(each):
            with files.replacing(folder / name / inside) as place:
                shutil.copyfile(source, place)
        arguments += [each.flag, each.form.format(name)]
    return arguments


def _files_of(each: Copied) -> Iterator[tuple[Path, str]]:
    """The files to copy, each with its path in the copy; empty for a single file itself."""
    source = each.source
    if source.is_file():
        yield source, ""
    elif each.flag == "--images":
        yield from ((path, path.relative_to(source).as_posix()) for path in images_in(source))
    else:
        names = {
            "--adapter": ADAPTER_FILES,
            "--ranking": (RANKING_FILE,),
            "--run": (RESULTS_FILE,),
        }[each.flag]
        yield from ((source / name, name) for name in names if (source / name).is_file())


def _gradio() -> str:
    try:
        return version("gradio")
    except PackageNotFoundError:
        return GRADIO
