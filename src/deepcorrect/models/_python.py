"""`python:FILE_OR_MODULE:CALLABLE`: a network that the user's own code builds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from deepcorrect.models._source import Built, Request
from deepcorrect.models._user_code import import_file, import_module, importing_from
from deepcorrect.runtime import DeepCorrectError, InputError, try_torchvision, unknown


def from_python(request: Request) -> Built:
    """The result of the callable: an `nn.Module`, or a `Classifier` with its preprocessing.

    A file may import its siblings and, relatively, the package that it lies in; a module may lie in
    the current folder.
    """
    source, _, attribute = request.name.rpartition(":")
    if not source or not attribute:
        raise InputError(f"model {request.spec!r} is not python:FILE_OR_MODULE:CALLABLE")
    path = Path(source).expanduser()
    is_file = path.suffix == ".py"
    if is_file and not path.is_file():
        raise InputError(f"there is no file {source}")
    with importing_from(path.parent if is_file else Path.cwd()):
        module = _imported(source, lambda: import_file(path) if is_file else import_module(source))
        build = getattr(module, attribute, None)
        if not callable(build):
            names = [name for name, value in vars(module).items() if callable(value)]
            raise unknown(f"callable of {source}", attribute, names)
        model = _called(build, f"{source}:{attribute}()")
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{source}:{attribute}() returned {type(model).__name__}: "
            "it must return a torch.nn.Module"
        )
    return Built(model, trained=True)


def _called(build: Callable[[], Any], name: str) -> Any:
    try:
        return build()
    except DeepCorrectError:
        raise
    except Exception as error:
        raise InputError(
            f"{name} failed: {type(error).__name__}: {error} (--debug shows where)"
        ) from error


def _imported(source: str, run: Callable[[], ModuleType]) -> ModuleType:
    try:
        try:
            return run()
        except RuntimeError as error:
            if "operator torchvision::" not in str(error):
                raise
            try_torchvision()
            return run()
    except DeepCorrectError:
        raise
    except Exception as error:
        raise InputError(
            f"importing {source!r} failed: {type(error).__name__}: {error} (--debug shows where)"
        ) from error
