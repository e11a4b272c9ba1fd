"""The base is never trained, and what one thread switches off is not switched off for another."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import Batch, TinyCNN, cut, tiny_cnn
from torch import Tensor, nn

import deepcorrect as dc
from deepcorrect.networks import ungated
from deepcorrect.networks._branches import Branches

UNIT = {"kind": "dense", "start": "he"}
ONE = {"stem": [1, 4], "pointwise": [0]}
OTHER = {"grouped": [2], "pointwise": [5, 7]}


def trained(adapted: dc.AdaptedModel, batches: list[Batch]) -> None:
    dc.fit(adapted, batches, "awgn:40", epochs=1, precision="float32", learning_rate=0.1)


def two_adapters(network: TinyCNN) -> dc.AdaptedModel:
    one = dc.correct(network, ONE, unit=UNIT)
    other = dc.correct(network, OTHER, unit=UNIT)
    del one
    return other


def removed_in_loading_order(network: TinyCNN) -> dc.AdaptedModel:
    adapters = [dc.correct(network, sites, unit=UNIT) for sites in (ONE, OTHER, ONE)]
    last = adapters[-1]
    del adapters[0], adapters[0]
    return last


def one_on_the_other(network: TinyCNN) -> dc.AdaptedModel:
    return dc.correct(dc.correct(network, ONE, unit=UNIT), OTHER, unit=UNIT)


def all_require_gradients(network: TinyCNN) -> dc.AdaptedModel:
    adapted = dc.correct(network, ONE, unit=UNIT)
    adapted.requires_grad_(True)
    network.requires_grad_(True)
    return adapted


def none_required_gradients(network: TinyCNN) -> dc.AdaptedModel:
    network.requires_grad_(False)
    adapted = dc.correct(network, ONE, unit=UNIT)
    network.requires_grad_(True)
    return adapted


def copied_while_disabled(network: TinyCNN) -> dc.AdaptedModel:
    adapted = dc.correct(network, ONE, unit=UNIT)
    with adapted.disable_adapter():
        return copy.deepcopy(adapted)


def in_a_set(network: TinyCNN) -> dc.AdaptedModel:
    adapters = dc.AdapterSet(
        {"one": dc.correct(network, ONE, unit=UNIT), "other": dc.correct(network, OTHER, unit=UNIT)}
    )
    adapters.use("one")
    return adapters["other"]


@pytest.mark.parametrize(
    "made",
    [
        two_adapters,
        removed_in_loading_order,
        one_on_the_other,
        all_require_gradients,
        none_required_gradients,
        copied_while_disabled,
        in_a_set,
    ],
)
@pytest.mark.parametrize("disabled", [False, True])
def test_fit_trains_the_adapters_own_parameters_alone(
    made: Callable[[TinyCNN], dc.AdaptedModel], disabled: bool, batches: list[Batch]
) -> None:
    network = tiny_cnn()
    adapted = made(network)
    own = {id(parameter) for parameter in adapted.trainable_parameters()}
    base = {n: p for n, p in adapted.named_parameters() if id(p) not in own}
    assert {name.rpartition("network.")[2] for name in base} >= set(
        dict(network.named_parameters())
    )
    before = copy.deepcopy({**dict(adapted.named_buffers()), **base})
    flags = {name: parameter.requires_grad for name, parameter in base.items()}
    units = copy.deepcopy(adapted.state_dict())
    if disabled:
        with pytest.raises(dc.DeepCorrectError), adapted.disable_adapter():
            trained(adapted, batches)
    else:
        trained(adapted, batches)
        changed = [
            name for name, each in adapted.state_dict().items() if not each.equal(units[name])
        ]
        assert changed
    after = {**dict(adapted.named_buffers()), **dict(adapted.named_parameters())}
    moved = [
        name
        for name, value in before.items()
        if not torch.equal(value, after[name]) and not name.startswith("units.")
    ]
    assert moved == []
    assert {name: after[name].requires_grad for name in base} == flags
    assert all(after[name].grad is None for name in base)


def test_a_copy_that_was_made_while_disabled_is_active(network: TinyCNN, images: Tensor) -> None:
    adapted = dc.correct(network, ONE, unit=UNIT)
    with adapted.disable_adapter():
        twins = [copy.deepcopy(adapted), pickle.loads(pickle.dumps(adapted))]
    for twin in twins:
        assert torch.equal(twin(images), adapted(images))
        assert not torch.equal(twin(images), network(images))


def in_turns(first: Callable[[], None], second: Callable[[], None]) -> None:
    """Runs two functions in two threads and raises what they raise."""
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(first), pool.submit(second)]:
            future.result(timeout=60)


def test_overlapping_blocks_in_two_threads_leave_nothing_off(
    network: TinyCNN, images: Tensor
) -> None:
    """The first that begins ends first, while the second is inside."""
    adapted = dc.correct(network, ONE, unit=UNIT)
    base, corrected = network(images), adapted(images)
    steps = [threading.Event() for _ in range(4)]

    def first() -> None:
        with adapted.disable_adapter():
            steps[0].set()
            assert steps[1].wait(30)
            assert torch.equal(adapted(images), base)
        steps[2].set()
        assert torch.equal(adapted(images), corrected)
        assert steps[3].wait(30)

    def second() -> None:
        assert steps[0].wait(30)
        assert torch.equal(adapted(images), corrected)  # the first thread's block is not this one's
        with adapted.disable_adapter(), adapted.disable_adapter():
            steps[1].set()
            assert steps[2].wait(30)
            assert torch.equal(adapted(images), base)
        assert torch.equal(adapted(images), corrected)
        steps[3].set()

    in_turns(first, second)
    assert torch.equal(adapted(images), corrected)


def test_overlapping_ungated_blocks_leave_the_gate_on(network: TinyCNN) -> None:
    adapted = dc.correct(network, ONE, unit=UNIT)
    images = torch.full((4, 3, 16, 16), 0.5)
    nothing = dc.GateConfig(
        kinds=("awgn",), weights=((0.0,) * 38,), biases=(-1.0,), false_alarms=0.05
    )
    corrected = adapted(images)
    adapted.set_gate(nothing)
    base = network(images)
    steps = [threading.Event() for _ in range(3)]

    def first() -> None:
        with ungated(adapted):
            steps[0].set()
            assert steps[1].wait(30)
            assert torch.equal(adapted(images), corrected)
        steps[2].set()

    def second() -> None:
        assert steps[0].wait(30)
        assert torch.equal(adapted(images), base)
        with ungated(adapted):
            steps[1].set()
            assert steps[2].wait(30)
            assert torch.equal(adapted(images), corrected)

    in_turns(first, second)
    assert torch.equal(adapted(images), base)


def test_replicas_of_data_parallel_see_what_their_caller_switched_off(network: TinyCNN) -> None:
    adapted = dc.correct(network, ONE, unit=UNIT)
    seen: list[bool] = []
    with adapted.disable_adapter(), ungated(adapted):
        replica = adapted._replicate_for_data_parallel()
        branches = next(each for each in adapted.modules() if isinstance(each, Branches))
        twin = branches._replicate_for_data_parallel()
    thread = threading.Thread(
        target=lambda: seen.extend([replica._disabled.active, twin.ungated.active])
    )
    thread.start()
    thread.join()
    assert seen == [True, True]
    assert not adapted._disabled.active
    assert adapted._replicate_for_data_parallel()._disabled.active is False


def test_evaluations_in_six_threads_are_those_of_one(
    classifier: dc.Classifier, images: Tensor, labels: Tensor
) -> None:
    """Agreement with the untouched network, which every thread asks for its answers."""
    adapted = dc.correct(classifier, ONE, unit=UNIT, seed=3)
    batches = cut(images, labels, 4)

    def agreement(_: int) -> list[float]:
        grid = dc.evaluate(adapted, batches, "awgn:20,60", target="prediction")
        return [grid.clean_top1, *grid.curves["awgn"].top1]

    expected = agreement(0)
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(agreement, range(18))) == [expected] * 18


def test_eight_threads_get_the_answers_of_one(network: TinyCNN) -> None:
    adapted = dc.correct(network, ONE, unit=UNIT)
    drawing = torch.Generator().manual_seed(4)
    pictures = [torch.rand(1 + n % 4, 3, 16, 16, generator=drawing) for n in range(16)]
    with torch.no_grad():
        expected = [(adapted(each), network(each)) for each in pictures]

    def ask(number: int) -> bool:
        place = number % len(pictures)
        with torch.no_grad():
            if number % 3:
                return torch.equal(adapted(pictures[place]), expected[place][0])
            with adapted.disable_adapter():
                return torch.equal(adapted(pictures[place]), expected[place][1])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(160)))


def test_a_compiled_network_is_switched_off_and_on_again(network: TinyCNN, images: Tensor) -> None:
    adapted = dc.correct(network, ONE, unit=UNIT)
    compiled: nn.Module = torch.compile(adapted, backend="eager")  # pyright: ignore[reportAssignmentType]
    with torch.no_grad():
        expected = adapted(images)
        torch.testing.assert_close(compiled(images), expected)
        with adapted.disable_adapter():
            torch.testing.assert_close(compiled(images), network(images))
        torch.testing.assert_close(compiled(images), expected)
