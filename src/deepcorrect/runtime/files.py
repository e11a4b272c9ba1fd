"""Files that are complete or absent: every write goes to a temporary file that is then renamed."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from deepcorrect.runtime._errors import InputError, first_problem
from deepcorrect.runtime._parsing import (
    JSON_BYTES,
    YAML_BYTES,
    parse_json,
    parse_yaml,
    read_text,
)
from deepcorrect.runtime._replacing import (
    check_file,
    check_folder,
    disk_full,
    is_empty,
    locked,
    make_folder,
    new_folder,
    remove_temporary,
    replacing,
)

if TYPE_CHECKING:
    import numpy as np
    from pydantic import BaseModel
    from torch import Tensor

__all__ = [
    "check_file",
    "check_folder",
    "disk_full",
    "is_empty",
    "locked",
    "make_folder",
    "new_folder",
    "read_array",
    "read_arrays",
    "read_checkpoint",
    "read_description",
    "read_json",
    "read_json_as",
    "read_shapes",
    "read_tensors",
    "read_yaml",
    "read_yaml_text",
    "remove_temporary",
    "replacing",
    "write_bytes",
    "write_checkpoint",
    "write_json",
    "write_tensors",
    "write_text",
    "write_with",
]

Read = TypeVar("Read")
Model = TypeVar("Model", bound="BaseModel")

PYTHON_2 = "Reading `.npy` or `.npz` file required additional header parsing"
"""How NumPy's warning begins of an array that Python 2 wrote, which is a good one."""


def write_with(path: Path, write: Callable[[Path], None]) -> None:
    """Calls `write` with a temporary path and renames the result to `path`; see `replacing`."""
    with replacing(path) as temporary:
        write(temporary)


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, completely or not at all."""
    write_with(path, lambda temporary: _discard(temporary.write_text(text, encoding="utf-8")))


def write_bytes(path: Path, content: bytes) -> None:
    """Writes `content`, completely or not at all."""
    write_with(path, lambda temporary: _discard(temporary.write_bytes(content)))


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, completely or not at all.

    Example:
        >>> import pathlib, tempfile
        >>> from deepcorrect.runtime import files
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "results.json")
        ...     files.write_json(path, {"top1": 0.9})
        ...     files.read_json(path)
        {'top1': 0.9}
    """
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], description: Mapping[str, str] | None = None
) -> None:
    """Writes named tensors as safetensors, completely or not at all.

    Args:
        path: The file.
        tensors: The tensors by name.
        description: Texts by name, which are stored in the file's header.

    Example:
        >>> import pathlib, tempfile, torch
        >>> from deepcorrect.runtime import files
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "ranking.safetensors")
        ...     files.write_tensors(path, {"conv1": torch.zeros(2)}, {"method": "swap"})
        ...     files.read_tensors(path), files.read_description(path)
        ({'conv1': tensor([0., 0.])}, {'method': 'swap'})
    """
    from safetensors.torch import save_file  # noqa: PLC0415  (imports PyTorch)

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    texts = None if description is None else dict(description)
    write_with(path, lambda temporary: save_file(contiguous, temporary, texts))


def write_checkpoint(path: Path, value: Any) -> None:
    """Writes a PyTorch checkpoint (tensors and plain containers), completely or not at all."""
    import torch  # noqa: PLC0415  (slow to import)

    write_with(path, lambda temporary: torch.save(value, temporary))


def read_json(path: Path) -> Any:
    """Reads a JSON file; see `parse_json` for what is refused.

    Raises:
        InputError: The file does not exist, or is not JSON within the bounds.
    """
    return parse_json(read_text(path, JSON_BYTES, "a JSON file"), str(path))


def read_json_as(path: Path, model: type[Model]) -> Model:
    """Reads a JSON file that holds the values of a pydantic model.

    Raises:
        InputError: The file does not exist, or holds something else.
    """
    from pydantic import ValidationError  # noqa: PLC0415  (most commands read none)

    try:
        return model.model_validate(read_json(path))
    except ValidationError as error:
        where, _, message = first_problem(error)
        place = f"{where}: " if where else ""
        raise InputError(f"{path} is not a {model.__name__}: {place}{message}") from None


def read_yaml(path: Path) -> Any:
    """Reads a YAML file of plain types; see `parse_yaml` for what is refused.

    Raises:
        InputError: The file does not exist, or is not YAML within the bounds.
    """
    return parse_yaml(read_yaml_text(path), str(path))


def read_yaml_text(path: Path) -> str:
    """Reads the text of a YAML file, with its comments.

    Raises:
        InputError: The file does not exist, is too large, or is not UTF-8.
    """
    return read_text(path, YAML_BYTES, "a YAML file")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads a safetensors file.

    Raises:
        InputError: The file does not exist or is not a complete safetensors file.
    """
    from safetensors.torch import load_file  # noqa: PLC0415  (imports PyTorch)

    return _from_safetensors(path, load_file)


def read_description(path: Path) -> dict[str, str]:
    """Reads the texts in the header of a safetensors file.

    Raises:
        InputError: The file does not exist or is not a complete safetensors file.
    """
    return _from_safetensors(path, lambda p: _opened(p, lambda file: file.metadata() or {}))


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Reads the shapes of a safetensors file's tensors, and not the tensors.

    Raises:
        InputError: The file does not exist or is not a complete safetensors file.
    """

    def shapes(file: Any) -> dict[str, tuple[int, ...]]:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118

    return _from_safetensors(path, lambda p: _opened(p, shapes))


def _opened(path: Path, read: Callable[[Any], Read]) -> Read:
    from safetensors import safe_open  # noqa: PLC0415

    with safe_open(path, "pt") as file:
        return read(file)


def _from_safetensors(path: Path, read: Callable[[Path], Read]) -> Read:
    from safetensors import SafetensorError  # noqa: PLC0415

    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        return read(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a complete safetensors file ({error})") from None


def read_array(path: Path) -> np.ndarray:
    """Opens a NumPy array (`.npy`), which stays on the disk until it is used.

    Raises:
        InputError: The file does not exist, is not a complete array, or holds Python objects.

    Example:
        >>> import pathlib, tempfile, numpy
        >>> from deepcorrect.runtime import files
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "labels.npy")
        ...     numpy.save(path, numpy.array([3, 1]))
        ...     files.read_array(path).tolist()
        [3, 1]
    """
    from numpy.lib.format import open_memmap  # noqa: PLC0415  (slow to import)

    return _from_numpy(path, lambda path: open_memmap(path, mode="r"), "a complete NumPy array")


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads an archive of NumPy arrays (`.npz`).

    Raises:
        InputError: The file does not exist, is not such an archive, or holds Python objects.
    """
    import numpy as np  # noqa: PLC0415  (slow to import)

    def every(path: Path) -> dict[str, np.ndarray]:
        with np.load(path, allow_pickle=False) as archive:
            found = dict(archive)
        for name, value in found.items():
            if not isinstance(value, np.ndarray):  # NumPy gives the bytes of what is no array
                raise ValueError(f"{name} is no array")
        return found

    return _from_numpy(path, every, "a complete archive of NumPy arrays")


def _from_numpy(path: Path, read: Callable[[Path], Read], expected: str) -> Read:
    """What NumPy reads. What it warns of is refused: it writes nothing of the kind itself."""
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        with warnings.catch_warnings(action="error"):
            warnings.filterwarnings("ignore", PYTHON_2)
            return read(path)
    except Exception as error:  # NumPy raises errors of many classes for a damaged header
        raise InputError(f"{path} is not {expected} ({error})") from None


def read_checkpoint(path: Path) -> Any:
    """Reads a PyTorch checkpoint with `weights_only=True`, so that no code in it is ever run.

    What the file holds beside tensors and plain containers, such as an `argparse.Namespace`, NumPy
    numbers, paths or enums, is replaced by inert stand-ins.

    Raises:
        InputError: The file does not exist, is broken, or names functions that act.
    """
    from deepcorrect.runtime._stand_ins import (  # noqa: PLC0415
        StandIn,
        is_refused,
        load_with_stand_ins,
        unknown_globals,
    )

    if not path.is_file():
        raise InputError(f"there is no file {path}")
    names = unknown_globals(path)
    refused = [name for name in names if is_refused(name)]
    if refused:
        raise _unsafe(path, f"it names {refused[0]}, which is never called")
    try:
        with warnings.catch_warnings(action="ignore"):  # about pickles, which are then refused
            value = load_with_stand_ins(path, names)
    except Exception as error:  # PyTorch and pickle raise errors of many classes
        foreign = [name for name in names if not name.startswith(("torch._", "builtins."))]
        held = f"; it holds {', '.join(foreign[:3])}" if foreign else ""
        raise _unsafe(path, type(error).__name__ + held) from None
    if isinstance(value, StandIn):
        raise _unsafe(path, f"it is a whole object of the class {value.origin}")
    return value


def _unsafe(path: Path, reason: str) -> InputError:
    return InputError(
        f"{path} is not a PyTorch file of tensors that can be read safely ({reason}). Accepted: a "
        "state dict saved by torch.save, or safetensors. If you trust the file, save its tensors "
        "alone where it was made: torch.save(network.state_dict(), FILE)"
    )


def _discard(_: object) -> None:
    return None
