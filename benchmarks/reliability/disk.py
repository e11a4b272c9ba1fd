"""A disk that loses power: the states of a folder in which writes that were not to last are lost.

A system keeps what `fsync` was called for: of a file its content, of a folder its entries. All else
may be on the disk or not. `Recorder` follows a folder while files are written to it and builds what
a power cut at each moment may leave:

- a file whose content was not made to last is empty, cut in half, or whole;
- files that were made, renamed or removed in a folder that was not made to last since are as they
  were, or as they became up to any moment since, in the order of the changes.

Moments are those before each call that makes something last, renames or removes, and the end.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

State = Mapping[str, bytes | None]
"""What is in a folder: the content of each file by its path, and None for each folder."""

WATCHED = ("fsync", "replace", "rename", "unlink", "remove", "mkdir", "rmdir")
LOST = ("nothing of it", "half of it", "all of it")
"""What is left of a file whose content was not made to last."""


@dataclass
class _Folder:
    """A folder's entries: those that last, and the changes since, each by name."""

    lasting: dict[str, int] = field(default_factory=dict)
    changes: list[dict[str, int | None]] = field(default_factory=list)

    def after(self, count: int) -> dict[str, int]:
        """The entries if the first `count` changes are on the disk."""
        found: dict[str, int | None] = dict(self.lasting)
        for change in self.changes[:count]:
            found.update(change)
        return {name: number for name, number in found.items() if number is not None}


class Recorder:
    """Follows a folder; all that is in it at first lasts.

    Args:
        root: the folder, which exists.

    Attributes:
        states: what a cut may leave, each once, in the order of the moments.
        last: what a cut after the end may leave.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.states: dict[str, State] = {}
        self.last: list[State] = []
        self._numbers: dict[str, tuple[int, int]] = {}  # of each path: the inode, and a number
        self._count = 0
        self._folders: dict[int, _Folder] = {0: _Folder()}
        self._now: dict[int, bytes] = {}
        self._lasting: dict[int, bytes] = {}
        self._look()
        for folder in self._folders.values():
            folder.lasting, folder.changes = folder.after(len(folder.changes)), []
        self._lasting = dict(self._now)

    def _look(self) -> None:
        """Takes what happened in the folder since the last look as one change of each folder."""
        before, self._numbers = self._numbers, {}
        gone = dict(before.values())
        for path in sorted(self.root.rglob("*")):
            name = str(path.relative_to(self.root))
            inode = path.lstat().st_ino
            number = gone.get(inode)
            if number is None:
                self._count += 1
                number = self._count
                if path.is_dir():
                    self._folders[number] = _Folder()
            self._numbers[name] = inode, number
            if path.is_file():
                self._now[number] = path.read_bytes()
        changes: dict[str, dict[str, int | None]] = {}
        for name in before.keys() | self._numbers.keys():
            old, new = before.get(name), self._numbers.get(name)
            if old != new:
                folder, _, last = name.rpartition("/")
                changes.setdefault(folder, {})[last] = new and new[1]
        for name, change in changes.items():
            known = self._numbers.get(name) or before.get(name)
            self._folders[known[1] if name and known else 0].changes.append(change)

    def _make_last(self, handle: int) -> None:
        inode = os.fstat(handle).st_ino
        if inode == self.root.stat().st_ino:
            number = 0
        else:
            number = next((n for i, n in self._numbers.values() if i == inode), -1)
        if number in self._folders:
            folder = self._folders[number]
            folder.lasting, folder.changes = folder.after(len(folder.changes)), []
        elif number in self._now:
            self._lasting[number] = self._now[number]

    def cut(self) -> list[State]:
        """What a power cut at this moment may leave."""
        self._look()
        longest = {number: len(folder.changes) for number, folder in self._folders.items()}
        kept = [dict.fromkeys(longest, 0), longest]
        for number, count in longest.items():  # one folder part of the way, the others at an end
            kept += [{**ends, number: part} for part in range(1, count) for ends in kept[:2]]
        found = [self._built(counts, lost) for counts in kept for lost in LOST]
        for state in found:
            self.states.setdefault(_digest(state), state)
        return list({_digest(state): state for state in found}.values())

    def _built(self, counts: Mapping[int, int], lost: str) -> State:
        state: dict[str, bytes | None] = {}
        below = [("", 0)]
        while below:
            prefix, number = below.pop()
            for name, each in self._folders[number].after(counts[number]).items():
                path = prefix + name
                if each in self._folders:
                    state[path] = None
                    below.append((f"{path}/", each))
                else:
                    state[path] = self._content(each, lost)
        return state

    def _content(self, number: int, lost: str) -> bytes:
        now, lasting = self._now.get(number, b""), self._lasting.get(number, b"")
        if now == lasting or lost == LOST[2]:
            return now
        return lasting if lost == LOST[0] else now[: (len(lasting) + len(now)) // 2]

    @contextmanager
    def recording(self) -> Iterator[Recorder]:
        """Records what the block writes."""
        before = {name: getattr(os, name) for name in WATCHED}

        def watched(name: str) -> Callable[..., Any]:
            def called(*given: Any, **more: Any) -> Any:
                self.cut()
                done = before[name](*given, **more)
                if name == "fsync":
                    self._make_last(*given)
                else:
                    self._look()
                return done

            return called

        for name in WATCHED:
            setattr(os, name, watched(name))
        try:
            yield self
        finally:
            for name, original in before.items():
                setattr(os, name, original)
            self.last = self.cut()


def restore(state: State, folder: Path) -> None:
    """Writes a state into a folder that does not exist yet."""
    folder.mkdir(parents=True)
    for path, content in sorted(state.items()):
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)


def _digest(state: State) -> str:
    found = hashlib.sha256()
    for path, content in sorted(state.items()):
        found.update(f"{path}\0{None if content is None else len(content)}\0".encode())
        found.update(content or b"")
    return found.hexdigest()
