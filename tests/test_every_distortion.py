"""Properties of every registered kind of distortion, of compositions, groups and specs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_corruptions import LEVELS, SETS, matches, noise, of_each_benchmark, pictures, seeded
from torch import Tensor

from deepcorrect.distortions import (
    GROUPS,
    KINDS,
    Distortion,
    LevelledDistortion,
    Parameters,
    distort_some,
    parse_all,
    ungrouped,
)
from deepcorrect.runtime import InputError, seeds_for

CORRUPTIONS = GROUPS["imagenet_c"] + GROUPS["imagenet_c_extra"]
RANDOM = [name for name, kind in KINDS.items() if kind.random]
of_every_kind = pytest.mark.parametrize("name", list(KINDS))


# --- what holds of every kind


def mixed_images(height: int, width: int, channels: int) -> Tensor:
    """Black, white, black-and-white, 8-bit, smooth and random images: all difficult cases."""
    chance = noise(channels, height, width)
    return torch.stack(
        [
            torch.zeros_like(chance),
            torch.ones_like(chance),
            (chance > 0.5).float(),
            (chance * 255).round() / 255,
            pictures(1, height, width, channels)[0],
            noise(channels, height, width, seed=1),
        ]
    )


@of_every_kind
def test_the_weakest_level_changes_nothing(name: str) -> None:
    images = torch.cat([mixed_images(9, 13, 3), noise(1, 3, 9, 13) * 3 - 1])
    assert torch.equal(Distortion(name)(images, KINDS[name].weakest, seeded()), images)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(8, 8), (9, 13), (32, 32)], ids=str)
@of_every_kind
def test_every_level_gives_images_of_the_same_shape_in_range(
    name: str, shape: tuple[int, int], channels: int
) -> None:
    images = mixed_images(*shape, channels)
    before = images.clone()
    for parameters in SETS:
        distortion = Distortion(name, parameters=parameters)
        for level in distortion.kind.levels(parameters):
            result = distortion(images, level, seeded())
            assert (result.shape, result.dtype) == (images.shape, images.dtype)
            assert result.device == images.device
            assert result.isfinite().all()
            if name != "awgn":  # the paper's noise is not clipped
                assert float(result.min()) >= -1e-5
                assert float(result.max()) <= 1 + 1e-5
    assert torch.equal(images, before)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (3, 2)], ids=str)
@of_every_kind
def test_images_of_a_few_pixels_do_no_harm(name: str, shape: tuple[int, int]) -> None:
    for channels in (1, 3):
        for level in KINDS[name].small_levels:
            result = Distortion(name)(noise(2, channels, *shape), level, seeded())
            assert result.isfinite().all()


@of_every_kind
def test_values_out_of_range_as_unclipped_noise_makes_them_do_no_harm(name: str) -> None:
    noisy = Distortion(f"awgn+{name}")
    for level in LEVELS:
        assert noisy(mixed_images(9, 13, 3), level, torch.arange(6)).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@of_every_kind
def test_half_precision_images_are_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    images = mixed_images(8, 10, 3).to(dtype)
    for level in KINDS[name].small_levels[::2]:
        result = Distortion(name)(images, level, seeded())
        assert result.dtype == dtype
        assert torch.equal(result, Distortion(name)(images.float(), level, seeded()).to(dtype))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@of_every_kind
def test_the_device_is_kept(name: str) -> None:
    images = mixed_images(16, 20, 3)
    level = KINDS[name].small_levels[1]
    result = Distortion(name)(images.cuda(), level, torch.arange(6))
    assert result.device.type == "cuda"
    if not KINDS[name].random:
        assert matches(result.cpu(), Distortion(name)(images, level), 1e-4)


@of_every_kind
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_an_image_gets_the_same_alone_and_anywhere_in_any_batch(
    name: str, data: st.DataObject
) -> None:
    images = mixed_images(9, 13, data.draw(st.sampled_from([1, 3])))
    grid = [KINDS[name].weakest, *KINDS[name].small_levels]
    order = data.draw(st.permutations(range(6)))[: data.draw(st.integers(2, 6))]
    levels = torch.tensor([data.draw(st.sampled_from(grid)) for _ in order])
    seeds = torch.tensor([1000 + place for place in order])
    together = Distortion(name)(images[order], levels.double(), seeds)
    for result, place, level in zip(together, order, levels.tolist(), strict=True):
        alone = Distortion(name)(images[place][None], level, torch.tensor([1000 + place]))[0]
        assert matches(result, alone, 1e-6)


@pytest.mark.parametrize("name", ["low_light", "shot_noise", "shot_noise+gaussian_noise"])
def test_what_an_image_gets_does_not_depend_on_whether_its_neighbours_are_of_8_bits(
    name: str,
) -> None:
    """Counts of 8-bit values need fewer random numbers, which must not shift a neighbour's."""
    images, seeds = mixed_images(9, 13, 3), torch.arange(6)
    together = Distortion(name)(images, 1.0, seeds)
    for place in range(6):
        alone = Distortion(name)(images[place][None], 1.0, seeds[place][None])[0]
        assert matches(together[place], alone, 1e-6)


@pytest.mark.parametrize("name", RANDOM)
def test_a_seed_decides_what_is_drawn(name: str) -> None:
    images = pictures(1, 24, 24).expand(6, -1, -1, -1)
    level = KINDS[name].small_levels[4]
    seeds = torch.tensor([7, 8, 7, 9, 10, 11])
    result = Distortion(name)(images, level, seeds)
    assert torch.equal(result, Distortion(name)(images, level, seeds))
    assert torch.equal(result[0], result[2])
    different = 2 if name == "colour_cast" else 5  # too warm or too cold
    assert len(result.flatten(1).unique(dim=0)) == different


@pytest.mark.parametrize("name", sorted(set(KINDS) - set(RANDOM)))
def test_a_kind_without_chance_needs_no_generator_and_leaves_it_alone(name: str) -> None:
    images, level = pictures(2, 12, 12), KINDS[name].small_levels[1]
    generator = seeded()
    result = Distortion(name)(images, level, generator)
    assert torch.equal(result, Distortion(name)(images, level))
    assert torch.equal(result, Distortion(name)(images, level, torch.tensor([5, 6])))
    assert torch.equal(generator.get_state(), seeded().get_state())


@pytest.mark.parametrize("name", RANDOM)
def test_a_generator_gives_each_image_the_next_seed(name: str) -> None:
    images, level = pictures(4, 12, 12), KINDS[name].small_levels[1]
    one, two = seeded(3), seeded(3)
    whole = Distortion(name)(images, level, one)
    parts = [Distortion(name)(part, level, two) for part in (images[:1], images[1:])]
    assert matches(whole, torch.cat(parts), 1e-6)
    torch_state = torch.get_rng_state()
    Distortion(name)(images, level, one)
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_seeds_are_one_int64_a_image() -> None:
    images = torch.zeros(3, 1, 4, 4)
    for seeds in (torch.zeros(3), torch.zeros(2, dtype=torch.int64), torch.tensor(1)):
        with pytest.raises(InputError, match=r"seeds are one int64 per image \(3 here\)"):
            Distortion("awgn")(images, 5, seeds)


def test_an_images_seed_depends_on_its_number_and_not_on_the_batch() -> None:
    whole = seeds_for(0, "fog", 3.0, first=0, count=10)
    assert whole.dtype == torch.int64
    assert len(whole.unique()) == 10
    assert torch.equal(whole[4:], seeds_for(0, "fog", 3, first=4, count=6))


# Sequences of levels along which the error grows, for kinds for which not all five do so:
# `saturate` first removes colour and then adds it; `spatter` is first water and then mud; `frost`
# reduces the picture's weight from the fourth level on and raises that of the ice, which darkens
# some pictures less; `glass_blur` changes the reach, the rounds and the blur, so that only the
# first and the last level compare; CIFAR's `elastic_transform` has ever smaller affine maps.
RISING: dict[tuple[str, Parameters], tuple[tuple[int, ...], ...]] = {
    ("saturate", "cifar"): ((1, 2), (3, 4, 5)),
    ("saturate", "imagenet"): ((1, 2), (3, 4, 5)),
    ("spatter", "cifar"): ((1, 2, 3), (4, 5)),
    ("spatter", "imagenet"): ((1, 2, 3), (4, 5)),
    ("frost", "cifar"): ((1, 2, 3),),
    ("frost", "imagenet"): ((1, 2, 3), (4, 5)),
    ("glass_blur", "cifar"): ((1, 4), (1, 5)),
    ("glass_blur", "imagenet"): ((1, 3), (1, 5)),
    ("elastic_transform", "cifar"): ((5, 4, 3, 2, 1),),
}


@of_each_benchmark
@of_every_kind
def test_a_higher_level_is_farther_from_the_clean_image(name: str, parameters: Parameters) -> None:
    size = 32 if parameters == "cifar" else 64
    images, seeds = pictures(8, size, size), torch.arange(1, 9)
    grid = KINDS[name].levels(parameters)
    distortion = Distortion(name, parameters=parameters)
    errors = [
        float((distortion(images, level, seeds) - images).double().square().mean())
        for level in grid
    ]
    assert min(errors) > 0 or (name, parameters) == ("defocus_blur", "cifar")
    for run in RISING.get((name, parameters), (tuple(range(1, len(grid) + 1)),)):
        along = [errors[place - 1] for place in run]
        assert along == sorted(along), errors


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_size_chooses_the_benchmark_unless_an_option_does(name: str) -> None:
    small, large = pictures(1, 127, 140), pictures(1, 128, 140)
    seeds = torch.tensor([3])
    by_size, cifar, imagenet = (
        Distortion.parse(f"{name}:5{option}") for option in ("", ":cifar", ":imagenet")
    )
    assert torch.equal(by_size(small, 5, seeds), cifar(small, 5, seeds))
    assert torch.equal(by_size(large, 5, seeds), imagenet(large, 5, seeds))
    assert not torch.equal(cifar(small, 5, seeds), imagenet(small, 5, seeds))
    assert not torch.equal(cifar(large, 5, seeds), imagenet(large, 5, seeds))


def test_an_option_chooses_the_grid_too() -> None:
    assert parse_all("awgn::imagenet", 32)[0].levels == KINDS["awgn"].large_levels
    assert parse_all("awgn::cifar", 224)[0].levels == KINDS["awgn"].small_levels
    assert parse_all("low_light", 224)[0].levels == KINDS["low_light"].large_levels


# --- gradients and modes

SMOOTH = [name for name, kind in KINDS.items() if kind.smooth]
WITHOUT_KINKS = (
    "gaussian_blur",
    "gaussian_blur_c",
    "defocus_blur",
    "motion_blur",
    "zoom_blur",
    "glass_blur",
    "fog",
    "brightness",
    "contrast",
    "saturate",
    "pixelate",
    "elastic_transform",
    "gaussian_noise",
    "speckle_noise",
    "awgn",
    "impulse_noise",
    "resize",
    "occlusion",
    "colour_cast",
)


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_are_finite_and_reach_the_image(name: str) -> None:
    for level in KINDS[name].small_levels[::2]:
        images = mixed_images(12, 12, 3).requires_grad_()
        result = Distortion(name)(images, level, torch.arange(6))
        result.square().sum().backward()
        assert images.grad is not None
        assert images.grad.isfinite().all()
        assert images.grad[4].any()


@pytest.mark.parametrize("name", WITHOUT_KINKS)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    """Directional derivatives on images so grey that almost no value is clipped."""
    images = pictures(2, 12, 12) * 0.2 + 0.4 + torch.tensor([0.1, 0, -0.1]).view(1, 3, 1, 1)
    direction, weights = noise(2, 3, 12, 12) - 0.5, noise(2, 3, 12, 12, seed=1) - 0.5
    distortion, level = Distortion(name, parameters="cifar"), KINDS[name].small_levels[0]

    def along(step: float) -> float:
        moved = distortion(images + step * direction, level, torch.tensor([1, 2]))
        return float((moved.double() * weights).sum())

    images.requires_grad_()
    (distortion(images, level, torch.tensor([1, 2])) * weights).sum().backward()
    assert images.grad is not None
    slope = float((images.grad.double() * direction).sum())
    with torch.no_grad():
        measured = (along(0.003) - along(-0.003)) / 0.006
    assert slope == pytest.approx(measured, rel=0.01, abs=3e-3)


@pytest.mark.parametrize("mixed", [False, True])
@of_every_kind
def test_following_gradients_does_not_change_the_result(name: str, mixed: bool) -> None:
    images, grid = mixed_images(9, 13, 3), KINDS[name].small_levels
    levels = torch.tensor([grid[k % 3] if mixed else grid[2] for k in range(6)]).double()
    followed = Distortion(name)(images.clone().requires_grad_(), levels, torch.arange(6))
    assert matches(followed.detach(), Distortion(name)(images, levels, torch.arange(6)), 1e-6)


def test_an_empty_batch_that_asks_for_gradients_stays_empty() -> None:
    images = torch.zeros(0, 3, 8, 8, requires_grad=True)
    assert Distortion("contrast")(images, 1).shape == (0, 3, 8, 8)


@of_every_kind
def test_without_gradients_none_are_followed(name: str) -> None:
    images = mixed_images(9, 13, 3).requires_grad_()
    with torch.no_grad():
        result = Distortion(name)(images, KINDS[name].small_levels[1], seeded())
    assert not result.requires_grad


@of_every_kind
def test_in_inference_mode_the_result_is_the_same(name: str) -> None:
    level = KINDS[name].small_levels[2]
    with torch.inference_mode():
        images = mixed_images(11, 14, 3)  # a new size, so that constants are computed in this mode
        inside = Distortion(name)(images, level, seeded())
    outside = Distortion(name)(mixed_images(11, 14, 3), level, seeded())
    assert torch.equal(inside, outside)
    learning = mixed_images(11, 14, 3).requires_grad_()
    Distortion(name)(learning, level, seeded())  # the constants also serve gradients


@of_every_kind
def test_inside_autocast_the_result_is_the_same(name: str) -> None:
    images, level = mixed_images(9, 13, 3), KINDS[name].small_levels[2]
    with torch.autocast("cpu", torch.bfloat16):
        inside = Distortion(name)(images, level, seeded())
    assert inside.dtype == torch.float32
    assert torch.equal(inside, Distortion(name)(images, level, seeded()))


@contextmanager
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@of_every_kind
@pytest.mark.parametrize("shape", [(9, 13), (64, 70)], ids=str)
def test_two_threads_give_what_one_does(name: str, shape: tuple[int, int]) -> None:
    images, level = mixed_images(*shape, 3), KINDS[name].small_levels[2]
    alone = Distortion(name)(images, level, seeded())
    with two_threads():
        plain = Distortion(name)(images, level, seeded())
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            inside = Distortion(name)(images.clone(), level, seeded())
    assert matches(plain, alone, 1e-6)
    assert matches(inside, alone, 1e-6)


@of_every_kind
def test_the_memory_layout_does_not_matter(name: str) -> None:
    images, level = mixed_images(9, 13, 3), KINDS[name].small_levels[2]
    plain = Distortion(name)(images, level, seeded())
    last = images.contiguous(memory_format=torch.channels_last)
    turned = images.transpose(2, 3).contiguous().transpose(2, 3)
    for other in (last, turned):
        assert torch.equal(Distortion(name)(other, level, seeded()), plain)


# --- compositions and groups


@pytest.mark.parametrize("level", [1, 3, 5])
@of_each_benchmark
def test_a_composition_applies_its_parts_in_order(level: int, parameters: Parameters) -> None:
    images = pictures(3, 20, 24)
    names = ("gaussian_blur", "brightness", "jpeg_compression")
    composed = Distortion("+".join(names), parameters=parameters)
    one_by_one = images
    for name in names:
        at = KINDS[name].levels(parameters)[level - 1]
        one_by_one = Distortion(name, parameters=parameters)(one_by_one, at)
    assert torch.equal(composed(images, level), one_by_one)
    turned = Distortion("+".join(reversed(names)), parameters=parameters)
    assert not torch.equal(turned(images, level), one_by_one)


def test_a_compositions_random_part_draws_what_it_would_alone() -> None:
    images, seeds = pictures(3, 20, 24), torch.tensor([4, 5, 6])
    composed = Distortion("contrast+gaussian_noise")(images, 2, seeds)
    dull = Distortion("contrast")(images, 2)
    assert torch.equal(composed, Distortion("gaussian_noise")(dull, 2, seeds))


def test_two_random_parts_draw_apart() -> None:
    images, seeds = torch.full((1, 1, 100, 100), 0.5), torch.tensor([4])
    twice = Distortion("awgn+awgn")(images, 2, seeds) - images
    assert float(twice.std()) * 255 == pytest.approx(10 * 2**0.5, rel=0.03)


def test_a_composition_is_what_its_parts_are() -> None:
    kind = Distortion("gaussian_blur+saturate").kind
    assert (kind.random, kind.colours, kind.smooth) == (False, True, True)
    kind = Distortion("contrast+shot_noise").kind
    assert (kind.random, kind.colours, kind.smooth) == (True, False, False)
    assert Distortion("gaussian_blur+awgn").for_size(32).levels == (1, 2, 3, 4, 5, 6)
    assert Distortion("gaussian_blur+fog").for_size(224).levels == (1, 2, 3, 4, 5)
    clean = pictures(1, 9, 9)
    assert torch.equal(Distortion("gaussian_blur+fog")(clean, 0, seeded()), clean)


def test_the_groups_share_out_all_kinds() -> None:
    members = [name for group in GROUPS.values() for name in group]
    assert len(members) == len(set(members))
    assert set(members) == set(KINDS)
    assert {name: len(group) for name, group in GROUPS.items()} == {
        "imagenet_c": 15,
        "imagenet_c_extra": 4,
        "paper": 2,
        "camera": 6,
    }


@pytest.mark.parametrize("group", list(GROUPS))
def test_a_groups_name_stands_for_its_kinds(group: str) -> None:
    found = ungrouped(f"{group}:1:quantize,imagenet")
    assert [each.name for each in found] == list(GROUPS[group])
    assert all(each.levels == (1,) and each.quantize for each in found)
    assert all(each.parameters == "imagenet" for each in found)
    whole = parse_all([group], 32)
    assert [each.levels for each in whole] == [KINDS[name].small_levels for name in GROUPS[group]]


def test_a_group_and_one_of_its_kinds_name_that_kind_twice() -> None:
    with pytest.raises(InputError, match="a distortion is named twice"):
        parse_all(["imagenet_c", "fog:2"], 32)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("fog:6", "level 6.0 of 'fog' is not a whole number from 0 to 5 (severity)"),
        ("fog:2.5", "level 2.5 of 'fog' is not a whole number from 0 to 5 (severity)"),
        ("fog:-1", "level -1.0 of 'fog' is not a whole number from 0 to 5 (severity)"),
        ("fog:nan", "level nan of 'fog' is not a whole number from 0 to 5 (severity)"),
        ("occlusion:2", "level 2.0 of 'occlusion' is not a number from 0 to 1 (share of"),
        ("bit_depth:8", "level 8.0 of 'bit_depth' is not a number from 0 to 7 (bits of 8"),
        ("resize:0.5", "level 0.5 of 'resize' is not a number from 1 on (times smaller"),
        ("fog:1::2", "unknown distortion option ':2'"),
        ("fog+contrst:1", "unknown distortion 'contrst', did you mean 'contrast'"),
        ("fog+", "unknown distortion ''"),
        ("fog+contrast:1.5", "level 1.5 of 'fog+contrast' is not a whole number from 0 to 5"),
        ("gaussian_blur+awgn:7", "is not a whole number from 0 to 6 (number in each part's grid"),
        ("fog:1:cifar,imagenet", "asks for both cifar's and imagenet's parameters: name one"),
        ("fog:1:imagnet", "unknown distortion option 'imagnet', did you mean 'imagenet'"),
    ],
)
def test_specs_say_what_is_wrong_with_them(spec: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        ungrouped(spec)
    assert message in str(caught.value)


def test_calls_say_what_is_wrong_with_them() -> None:
    two_channels = torch.zeros(1, 2, 8, 8)
    with pytest.raises(InputError, match=r"acts on grey or RGB images \(1 or 3 channels\)"):
        Distortion("saturate")(two_channels, 1)
    assert Distortion("contrast")(two_channels, 1).shape == two_channels.shape
    with pytest.raises(InputError, match="images of 0 x 8 pixels are empty"):
        Distortion("contrast")(torch.zeros(1, 3, 0, 8), 1)
    with pytest.raises(InputError, match="level 6.0 of 'fog' is not a whole number"):
        Distortion("fog")(torch.zeros(2, 3, 8, 8), torch.tensor([1.0, 6.0]), seeded())
    with pytest.raises(InputError, match="'snow' is random: give a torch.Generator"):
        Distortion("snow")(torch.zeros(1, 3, 8, 8), 1)
    wrong: Parameters = "cifer"  # pyright: ignore[reportAssignmentType]
    with pytest.raises(InputError, match="unknown parameter set 'cifer', did you mean 'cifar'"):
        Distortion("fog", parameters=wrong)


# --- a random distortion for some of a batch


def test_distort_some_leaves_a_share_clean_and_reaches_every_kind_and_level() -> None:
    images = torch.full((400, 1, 4, 4), 0.5)
    distortions = (  # each changes a mid-grey image in its own way
        LevelledDistortion("brightness", (1, 2, 4), parameters="imagenet"),
        LevelledDistortion("occlusion", (1.0,)),
        LevelledDistortion("gaussian_blur", (3.0,)),
        LevelledDistortion("impulse_noise", (5,), parameters="imagenet"),
    )
    result = distort_some(images, distortions, 0.25, seeded())
    flat = (result - images).flatten(1)
    raised = [(flat - step).abs().amax(1) < 1e-6 for step in (0.1, 0.2, 0.4)]
    blurred = (flat < 0).all(1) & (flat > -0.5).all(1)
    same = ~flat.any(1)
    salted = ~same & ~blurred & ~torch.stack(raised).any(0)
    # a covered mid-grey image looks clean, and so does one without any impulse
    assert 100 + 40 < int(same.sum()) < 100 + 75 + 40
    for share in [*raised, blurred, salted]:
        assert int(share.sum()) > 10
    assert int(torch.stack(raised).sum()) == pytest.approx(75, abs=30)
    assert int(blurred.sum()) == pytest.approx(75, abs=30)


@pytest.mark.parametrize("clean_share", [0.0, 0.1, 0.5, 1.0])
def test_the_clean_share_is_exact(clean_share: float) -> None:
    images = pictures(40, 8, 8)
    distortions = parse_all(["contrast", "awgn"], 32)
    result = distort_some(images, distortions, clean_share, seeded())
    clean = (result == images).flatten(1).all(1)
    assert int(clean.sum()) == round(40 * clean_share)
    assert torch.equal(result, distort_some(images, distortions, clean_share, seeded()))
    assert not clean_share < 1 or not torch.equal(
        result, distort_some(images, distortions, clean_share, seeded(1))
    )


def test_distort_some_serves_all_kinds_at_once() -> None:
    images = pictures(120, 8, 8)
    result = distort_some(images, parse_all(list(GROUPS), 32), 0.0, seeded())
    assert result.isfinite().all()
    assert float((result != images).flatten(1).any(1).double().mean()) > 0.9
