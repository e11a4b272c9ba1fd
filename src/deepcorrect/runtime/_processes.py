"""Several processes that share the work of one command or call.

`accelerate launch` and `torchrun` start them. Each holds its own copy of the network, takes a share
of the images, and learns of all others what a result needs. Before each exchange of values all
processes tell each other whether they failed, so that an error in one never leaves the others
waiting.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from deepcorrect.runtime._errors import DeepCorrectError

if TYPE_CHECKING:
    from torch import Tensor

Value = TypeVar("Value")

MEETING = timedelta(minutes=10)
"""How long processes wait for each other to start."""
WAITING = timedelta(hours=6)
"""How long a process waits for work that another does alone. One that died is noticed at once."""
TELLING = timedelta(seconds=10)
"""How long a process that failed waits to tell the others. They notice its end, at the latest."""

_OK, _FAILED = 0, 1
_alone: ContextVar[bool] = ContextVar("_alone", default=False)
_store: list[Any] = []
"""The key-value store through which the processes met, if they met here."""


class OtherProcessError(DeepCorrectError):
    """Another process failed or ended, so that this one cannot go on."""


def is_main_process() -> bool:
    """Whether this process is rank zero: the only one, or the first that a launcher started.

    Rank zero alone writes files and prints.
    """
    return os.environ.get("RANK", "0") == "0"


def launched() -> int:
    """How many processes a launcher started, 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_count() -> int:
    """How many processes share the work; 1 inside `alone`.

    They meet when this is first asked. A program that has its own process group keeps it.

    Example:
        >>> from deepcorrect.runtime import process_count
        >>> process_count()
        1
    """
    if _alone.get():
        return 1
    if launched() == 1 and "torch.distributed" not in sys.modules:
        return 1
    import torch.distributed as dist  # noqa: PLC0415  (slow to import)

    if not dist.is_available():
        return 1
    if not dist.is_initialized():
        if launched() == 1:
            return 1
        _meet()
    return dist.get_world_size()


def process_index() -> int:
    """This process's number among those that share the work, counted from 0; 0 inside `alone`."""
    if process_count() == 1:
        return 0
    import torch.distributed as dist  # noqa: PLC0415

    return dist.get_rank()


def _meet() -> None:
    """Joins the process group that the launcher's environment variables describe."""
    import torch  # noqa: PLC0415
    import torch.distributed as dist  # noqa: PLC0415
    from torch.distributed.distributed_c10d import (  # noqa: PLC0415
        PrefixStore,
        _set_pg_timeout,
    )
    from torch.distributed.rendezvous import rendezvous  # noqa: PLC0415

    backend = "gloo"
    if torch.cuda.is_available() and dist.is_nccl_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    try:
        store, rank, size = next(iter(rendezvous("env://", timeout=MEETING)))
        # a launcher that starts all again may keep the store, with the addresses of ended ones
        _store[:] = [PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)]
        dist.init_process_group(
            backend, store=_store[0], rank=rank, world_size=size, timeout=MEETING
        )
        _set_pg_timeout(WAITING)
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise DeepCorrectError(
            f"the {launched()} processes of this launch did not find each other ({reason}): check "
            "MASTER_ADDR and MASTER_PORT, and that all machines started"
        ) from None


def first_to_report() -> bool:
    """Whether no other process of this launch has reported an error; the first one does for all."""
    if launched() == 1:
        return True
    if not _store:
        return is_main_process()
    try:
        return int(_store[0].add("deepcorrect/errors", 1)) == 1
    except RuntimeError:  # the process that held the store has ended
        return True


@contextmanager
def alone() -> Iterator[None]:
    """In the block this process works by itself: nothing is shared with others.

    Example:
        >>> from deepcorrect.runtime import alone, process_count
        >>> with alone():
        ...     process_count()
        1
    """
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


@contextmanager
def together() -> Iterator[None]:
    """Ends the block in all processes alike: an error in one is an error in all.

    Each exchange below begins with the question whether all are well. A process that fails answers
    it once with no, and every other raises `OtherProcessError` at its next exchange, at the latest
    at the end of this block. Blocks may be nested.

    Raises:
        OtherProcessError: Another process failed, and has said why.
    """
    if process_count() == 1:
        yield
        return
    try:
        yield
    except OtherProcessError:
        raise
    except BaseException as error:
        if isinstance(error, Exception) and not getattr(error, "_told", False):
            error._told = True  # pyright: ignore[reportAttributeAccessIssue]
            with suppress(OtherProcessError):  # they know already, or are gone
                _states(_FAILED, 0)
        raise
    agree()


def agree(number: int = 0) -> list[int]:
    """Waits until all processes are here, and returns each one's number.

    Raises:
        OtherProcessError: Another process failed or ended.
    """
    if process_count() == 1:
        return [number]
    return _states(_OK, number)


def total(values: Tensor, *, asked: bool = True) -> Tensor:
    """The sum of all processes' values, exact for whole numbers, on the values' device.

    Args:
        values: A tensor of the same shape and type in every process.
        asked: Whether all are asked first if they are well. Without it, a process that failed is
            noticed when it ends.

    Raises:
        OtherProcessError: Another process failed or ended.

    Example:
        >>> import torch
        >>> from deepcorrect.runtime import total
        >>> total(torch.tensor([3, 4]))
        tensor([3, 4])
    """
    if process_count() == 1:
        return values
    import torch  # noqa: PLC0415
    import torch.distributed as dist  # noqa: PLC0415

    if asked:
        agree()
    summed = values.detach().to(_place(values), copy=True)
    if summed.dtype == torch.bool:
        summed = summed.byte()
    with _noticing_the_end():
        dist.all_reduce(summed)
    return summed.to(values.device, values.dtype)


def gathered(value: Value) -> list[Value]:
    """Each process's value, in the order of the processes; anything that can be pickled.

    Raises:
        OtherProcessError: Another process failed or ended.
    """
    if process_count() == 1:
        return [value]
    import torch.distributed as dist  # noqa: PLC0415

    agree()
    found: list[Any] = [None] * dist.get_world_size()
    with _noticing_the_end():
        dist.all_gather_object(found, value)
    return found


def gathered_on_main(value: Value) -> list[Value]:
    """Each process's value, as `gathered`, on rank zero; an empty list on the others.

    Raises:
        OtherProcessError: Another process failed or ended.
    """
    if process_count() == 1:
        return [value]
    import torch.distributed as dist  # noqa: PLC0415

    agree()
    found: list[Any] | None = [None] * dist.get_world_size() if process_index() == 0 else None
    with _noticing_the_end():
        dist.gather_object(value, found)
    return found or []


def from_main(make: Callable[[], Value]) -> Value:
    """What `make` returns on rank zero, which alone calls it, in every process.

    Raises:
        OtherProcessError: Another process failed or ended; rank zero raises the error of `make`.

    Example:
        >>> from deepcorrect.runtime import from_main
        >>> from_main(lambda: 7)
        7
    """
    if process_count() == 1:
        return make()
    import torch.distributed as dist  # noqa: PLC0415

    found: list[Any] = [None]
    with together():
        if process_index() == 0:
            with alone():
                found = [make()]
    with _noticing_the_end():
        dist.broadcast_object_list(found, src=0)
    return cast("Value", found[0])


def _states(state: int, number: int) -> list[int]:
    """Tells all processes this one's state and number, and returns their numbers."""
    import torch  # noqa: PLC0415
    import torch.distributed as dist  # noqa: PLC0415

    own = torch.tensor([state, number], device=_place(None))
    found = [torch.zeros_like(own) for _ in range(dist.get_world_size())]
    with _noticing_the_end():
        sent: Any = dist.all_gather(found, own, async_op=True)
        # whoever failed does not wait long for others, who may be computing or wait elsewhere
        sent.wait(WAITING if state == _OK else TELLING)
    rows = [each.tolist() for each in found]
    if state == _OK and any(failed for failed, _ in rows):
        raise OtherProcessError("another process failed, and has said why")
    return [each for _, each in rows]


def _place(values: Tensor | None) -> Any:
    """The device through which values travel: their own, or one that the processes share."""
    import torch  # noqa: PLC0415
    import torch.distributed as dist  # noqa: PLC0415

    ways = dist.get_backend_config()
    if values is not None and f"{values.device.type}:" in ways:
        return values.device
    return torch.device("cpu") if "cpu:" in ways else torch.device("cuda")


@contextmanager
def _noticing_the_end() -> Iterator[None]:
    """Turns what the communication library raises, once a process is gone, into one line."""
    try:
        yield
    except RuntimeError as error:
        raise OtherProcessError(
            "another of the processes that share this work has ended (killed, or out of memory?). "
            "Finished work is kept; the same command continues it (run: with --resume)"
        ) from error


def leave() -> None:
    """Closes the connections between processes; open ones abort some of them at exit."""
    distributed = sys.modules.get("torch.distributed")  # absent unless PyTorch was needed
    if distributed and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
