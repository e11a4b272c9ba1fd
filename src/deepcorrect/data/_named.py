"""Batches of any number of image files that keep the names of the files."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor

from deepcorrect.data._loader import loader
from deepcorrect.data._preprocessing import Preprocessing
from deepcorrect.data._sample import Sample
from deepcorrect.data._streaming import ImageStream


@dataclass(frozen=True)
class NamedBatch:
    """Some image files, in their order.

    Attributes:
        names: The names of all of them.
        images: The images that could be read, N x C x H x W in [0, 1].
        indices: The index in `names` of each of these images.
    """

    names: list[str]
    images: Tensor
    indices: list[int]

    @property
    def bad(self) -> list[str]:
        """The names of the files that could not be read."""
        good = set(self.indices)
        return [name for index, name in enumerate(self.names) if index not in good]


def named_batches(
    paths: Iterable[str], preprocessing: Preprocessing, batch_size: int, workers: int = 0
) -> Iterator[NamedBatch]:
    """Yields the image files at `paths` in batches, in their order.

    Only a few batches are read ahead, so `paths` may be an endless generator.

    Example:
        >>> import pathlib, tempfile
        >>> import deepcorrect as dc
        >>> from PIL import Image
        >>> from deepcorrect.data import named_batches
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     paths = [f"{folder}/{name}" for name in ("good.png", "broken.png")]
        ...     Image.new("L", (28, 28)).save(paths[0])
        ...     _ = pathlib.Path(paths[1]).write_text("not an image")
        ...     (batch,) = named_batches(paths, dc.Preprocessing(28, (0.13,), (0.31,)), 10)
        >>> batch.images.shape, [pathlib.Path(path).name for path in batch.bad]
        (torch.Size([1, 1, 28, 28]), ['broken.png'])
    """
    waiting: deque[str] = deque()

    def samples(seed: int | None) -> Iterator[Sample]:
        del seed
        for number, path in enumerate(paths):
            waiting.append(path)
            yield Sample(path, path, number % batch_size)  # the index in the batch as the label

    stream = ImageStream("files", samples, preprocessing, labelled=True)
    for images, indices in loader(stream, batch_size, workers=workers):
        names = [waiting.popleft() for _ in range(min(batch_size, len(waiting)))]
        yield NamedBatch(names, images, indices.tolist())
