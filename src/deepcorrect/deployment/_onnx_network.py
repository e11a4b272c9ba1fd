"""An exported ONNX file as a module, run by ONNX Runtime."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect.runtime import InputError, MissingExtraError


def onnx_runtime() -> Any:
    """The package `onnxruntime`.

    Raises:
        MissingExtraError: The `onnx` extra is not installed.
    """
    try:
        import onnxruntime  # noqa: PLC0415
        import onnxscript  # noqa: F401, PLC0415
    except ImportError as error:
        raise MissingExtraError("ONNX (onnx, onnxscript and onnxruntime)", "onnx") from error
    return onnxruntime


class OnnxNetwork(nn.Module):
    """The network of an ONNX file, run by ONNX Runtime on the CPU with as many threads as PyTorch.

    Args:
        path: A file that `export` or `quantize` wrote.

    Raises:
        InputError: The file cannot be read, or has other inputs or outputs.
        MissingExtraError: The `onnx` extra is not installed.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        runtime = onnx_runtime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self._session = runtime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # a broken file may raise anything
            raise InputError(
                f"{path} is not an ONNX file that ONNX Runtime can read ({type(error).__name__})"
            ) from None
        read = self._session.get_inputs()
        names = [each.name for each in (*read, *self._session.get_outputs())]
        if names != ["images", "logits"]:
            raise InputError(
                f"{path} has the inputs and outputs {', '.join(names)}, but a file that `export` "
                "wrote has the input images and the output logits"
            )
        size = read[0].shape[0]
        self.batch_size: int | None = size if isinstance(size, int) else None
        """The only batch size that the file accepts; None if it accepts any."""

    def forward(self, images: Tensor) -> Tensor:
        """Computes logits, N x classes, of images, N x C x H x W.

        Where the file accepts one batch size only, images are run in batches of this size, of which
        the last is filled up with copies of its last image.
        """
        size = self.batch_size or max(1, len(images))
        logits = [self._run(batch, size) for batch in images.split(size)]
        return torch.cat(logits).to(images.device)

    def _run(self, images: Tensor, size: int) -> Tensor:
        full = filled(images, size)
        values = full.detach().to("cpu", torch.float32).contiguous().numpy()
        return torch.from_numpy(self._session.run(["logits"], {"images": values})[0])[: len(images)]


def filled(images: Tensor, size: int) -> Tensor:
    """A batch of at least `size` images: copies of the last one follow a smaller batch."""
    missing = max(0, size - len(images))
    return torch.cat([images, images[-1:].expand(missing, *images.shape[1:])])


@contextmanager
def quiet() -> Iterator[None]:
    """Suppresses warnings and log messages of exporters and quantisers while the block runs."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
