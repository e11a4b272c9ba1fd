"""Image files in batches that keep their names: any number of files, none of them held."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor

from deepcorrect.data._loader import loader
from deepcorrect.data._preprocessing import Preprocessing
from deepcorrect.data._streaming import ImageStream, Sample


@dataclass(frozen=True)
class NamedBatch:
    """Some files in their order.

    Attributes:
        names: of all of them.
        images: those that could be read, N x C x H x W in [0, 1].
        places: of these, in `names`.
    """

    names: list[str]
    images: Tensor
    places: list[int]

    @property
    def bad(self) -> list[str]:
        """Names of the files that could not be read."""
        good = set(self.places)
        return [name for place, name in enumerate(self.names) if place not in good]


def named_batches(
    paths: Iterable[str], preprocessing: Preprocessing, batch_size: int, workers: int = 0
) -> Iterator[NamedBatch]:
    """The image files at `paths`, in their order; at most a few batches are read ahead."""
    waiting: deque[str] = deque()

    def samples(seed: int | None) -> Iterator[Sample]:
        del seed
        for number, path in enumerate(paths):
            waiting.append(path)
            yield Sample(path, path, number % batch_size)  # for a label, its place in the batch

    stream = ImageStream("files", samples, preprocessing, labelled=True)
    for images, places in loader(stream, batch_size, workers=workers):
        names = [waiting.popleft() for _ in range(min(batch_size, len(waiting)))]
        yield NamedBatch(names, images, places.tolist())
