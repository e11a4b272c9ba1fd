"""`python:FILE_OR_MODULE:CALLABLE`: a network that the user's own code builds."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from torch import nn

from deepcorrect.models._source import Built, Request
from deepcorrect.runtime import DeepCorrectError, InputError, try_torchvision, unknown


def from_python(request: Request) -> Built:
    """The result of the callable: an `nn.Module`, or a `Classifier` with its preprocessing."""
    source, _, attribute = request.name.rpartition(":")
    if not source or not attribute:
        raise InputError(f"model {request.spec!r} is not python:FILE_OR_MODULE:CALLABLE")
    module = _import(source)
    build = getattr(module, attribute, None)
    if not callable(build):
        names = [name for name, value in vars(module).items() if callable(value)]
        raise unknown(f"callable of {source}", attribute, names)
    try:
        model = build()
    except DeepCorrectError:
        raise
    except Exception as error:
        raise InputError(
            f"{source}:{attribute}() failed: {type(error).__name__}: {error} (--debug shows where)"
        ) from error
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{source}:{attribute}() returned {type(model).__name__}: "
            "it must return a torch.nn.Module"
        )
    return Built(model, trained=True)


def _import(source: str) -> ModuleType:
    try:
        try:
            return _run(source)
        except RuntimeError as error:
            if "operator torchvision::" not in str(error):
                raise
            try_torchvision()
            return _run(source)
    except DeepCorrectError:
        raise
    except Exception as error:
        raise InputError(
            f"importing {source!r} failed: {type(error).__name__}: {error} (--debug shows where)"
        ) from error


def _run(source: str) -> ModuleType:
    path = Path(source)
    if path.suffix != ".py":
        return importlib.import_module(source)
    if not path.is_file():
        raise InputError(f"there is no file {source}")
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    name = f"_deepcorrect_user_{digest}"
    module_spec = importlib.util.spec_from_file_location(name, path)
    if module_spec is None or module_spec.loader is None:
        raise InputError(f"{source} is not a Python file")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    module_spec.loader.exec_module(module)
    return module
