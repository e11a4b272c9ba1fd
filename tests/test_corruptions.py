"""ImageNet-C's nineteen corruptions against SciPy, OpenCV, Pillow, colorsys and closed forms."""

from __future__ import annotations

import colorsys
import io
import math
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch
from PIL import Image
from torch import Tensor

from deepcorrect.distortions import KINDS, Distortion, Parameters
from deepcorrect.distortions import _filters as filters
from deepcorrect.distortions._filters import OPENCV_BORDERS, AnyBorder, separable
from deepcorrect.distortions._frost import FREQUENCIES, SHARES, TEXTURES, texture
from deepcorrect.distortions._random import Draws
from deepcorrect.distortions._spatter import MUD, WATER
from deepcorrect.distortions._weather import plasma

CPU = torch.device("cpu")
LEVELS = (1, 2, 3, 4, 5)
SETS: tuple[Parameters, ...] = ("cifar", "imagenet")
at_each_severity = pytest.mark.parametrize("level", LEVELS)
of_each_benchmark = pytest.mark.parametrize("parameters", SETS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=seeded(seed))


def pictures(count: int, height: int, width: int, channels: int = 3) -> Tensor:
    """Smooth pictures: gradients and waves with a disc of another colour on them."""
    down, right = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None]
    drawing = seeded(11)
    found = []
    for _ in range(count):
        y, x, size = torch.rand(3, generator=drawing).tolist()
        away = torch.hypot(down - 0.2 - 0.6 * y, right - 0.2 - 0.6 * x)
        disc = torch.sigmoid((0.15 + 0.2 * size - away) * 25)
        for _ in range(channels):
            a, b, rate, phase, shade = torch.rand(5, generator=drawing).tolist()
            wave = torch.sin(2 * math.pi * ((1 + 3 * rate) * (a * right + (1 - a) * down) + phase))
            ground = 0.25 + 0.25 * (a * down + b * right) + 0.12 * wave
            found.append(ground * (1 - disc) + disc * (0.15 + 0.7 * shade))
    return torch.stack(found).view(count, channels, height, width).clamp(0, 1)


def numbers_of(name: str, level: int, parameters: Parameters) -> tuple:
    """The benchmark's parameters for a severity."""
    severities = KINDS[name].severities
    assert severities is not None
    return tuple(severities[parameters][level - 1])


def by_pixel(
    function: Callable[[float, float, float], tuple[float, float, float]], image: Tensor
) -> Tensor:
    """A function of red, green and blue, applied to each pixel of C x H x W."""
    pixels = [function(*pixel.tolist()) for pixel in image.double().flatten(1).T]
    return torch.tensor(pixels).T.reshape(image.shape)


def by_channel(function: Callable[[np.ndarray], np.ndarray], image: Tensor) -> Tensor:
    """A function of H x W float64 arrays, applied to each channel of C x H x W."""
    return torch.tensor(np.stack([function(plane) for plane in image.double().numpy()])).float()


def gaussian_by_scipy(sigma: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda plane: scipy.ndimage.gaussian_filter(plane, sigma, mode="nearest", truncate=4.0)


def matches(ours: Tensor, theirs: Tensor, atol: float = 1e-5) -> bool:
    assert ours.shape == theirs.shape
    return torch.allclose(ours.double(), theirs.double(), atol=atol, rtol=0)


# --- light, colour and encoders

SOME_COLOURS = torch.cat(
    [
        torch.tensor([[0, 0, 0], [1, 1, 1], [0.4, 0.4, 0.4], [1, 0, 0], [0, 0.5, 1]]).T,
        noise(3, 100),
    ],
    1,
).view(3, 15, 7)


@of_each_benchmark
@at_each_severity
def test_brightness_raises_the_value_of_hsv(level: int, parameters: Parameters) -> None:
    (added,) = numbers_of("brightness", level, parameters)

    def raised(*pixel: float) -> tuple[float, float, float]:
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        return colorsys.hsv_to_rgb(hue, saturation, min(value + added, 1))

    ours = Distortion("brightness", parameters=parameters)(SOME_COLOURS[None], level)[0]
    assert matches(ours, by_pixel(raised, SOME_COLOURS))


@of_each_benchmark
@at_each_severity
def test_saturate_changes_the_saturation_of_hsv(level: int, parameters: Parameters) -> None:
    factor, added = numbers_of("saturate", level, parameters)

    def saturated(*pixel: float) -> tuple[float, float, float]:
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        return colorsys.hsv_to_rgb(hue, min(saturation * factor + added, 1), value)

    ours = Distortion("saturate", parameters=parameters)(SOME_COLOURS[None], level)[0]
    assert matches(ours, by_pixel(saturated, SOME_COLOURS))


@at_each_severity
def test_brightness_and_saturate_of_random_pictures_are_opencvs(level: int) -> None:
    image = noise(3, 40, 30)
    hsv = cv2.cvtColor(image.permute(1, 2, 0).contiguous().numpy(), cv2.COLOR_RGB2HSV)
    (added,) = numbers_of("brightness", level, "imagenet")
    factor, more = numbers_of("saturate", level, "imagenet")
    for name, channel, changed in (
        ("brightness", 2, hsv[..., 2] + added),
        ("saturate", 1, hsv[..., 1] * factor + more),
    ):
        wanted = hsv.copy()
        wanted[..., channel] = changed.clip(0, 1)
        theirs = torch.tensor(cv2.cvtColor(wanted, cv2.COLOR_HSV2RGB)).permute(2, 0, 1)
        ours = Distortion(name, parameters="imagenet")(image[None], level)[0]
        assert matches(ours, theirs, 1e-4)


def test_a_grey_image_is_brightened_by_the_same_everywhere_and_has_nothing_to_saturate() -> None:
    image = noise(1, 1, 9, 13)
    brighter = Distortion("brightness", parameters="imagenet")(image, 3)
    assert matches(brighter, (image + 0.3).clamp(0, 1))
    for level in LEVELS:
        assert torch.equal(Distortion("saturate")(image, level), image)


@of_each_benchmark
@at_each_severity
def test_contrast_draws_each_channel_towards_its_mean(level: int, parameters: Parameters) -> None:
    (kept,) = numbers_of("contrast", level, parameters)
    image = noise(3, 9, 13)
    theirs = by_channel(lambda plane: plane.mean() + kept * (plane - plane.mean()), image)
    ours = Distortion("contrast", parameters=parameters)(image[None], level)[0]
    assert matches(ours, theirs, 1e-6)


@of_each_benchmark
@pytest.mark.parametrize(
    "shape", [(8, 8), (9, 13), (28, 28), (32, 32), (75, 100), (161, 224)], ids=str
)
def test_pixelate_is_pillows_box_and_nearest(
    shape: tuple[int, int], parameters: Parameters
) -> None:
    """Also if a pixel's centre lies on the edge of two boxes, where Pillow's rounding decides."""
    image, (height, width) = noise(3, *shape), shape
    for level in LEVELS:
        (share,) = numbers_of("pixelate", level, parameters)
        small = (int(width * share), int(height * share))

        def boxed(plane: np.ndarray, small: tuple[int, int] = small) -> np.ndarray:
            picture = Image.fromarray(plane.astype(np.float32))
            shrunk = picture.resize(small, Image.Resampling.BOX)
            return np.asarray(shrunk.resize((width, height), Image.Resampling.NEAREST))

        ours = Distortion("pixelate", parameters=parameters)(image[None], level)[0]
        assert matches(ours, by_channel(boxed, image)), small


@of_each_benchmark
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows_to_the_bit(channels: int, parameters: Parameters) -> None:
    image = pictures(1, 30, 45, channels)[0] * 0.9 + noise(channels, 30, 45) * 0.1
    pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
    for level in LEVELS:
        (quality,) = numbers_of("jpeg_compression", level, parameters)
        file = io.BytesIO()
        Image.fromarray(pixels.squeeze()).save(file, "JPEG", quality=quality)
        decoded = np.asarray(Image.open(file)).reshape(pixels.shape)
        ours = Distortion("jpeg_compression", parameters=parameters)(image[None], level)[0]
        assert torch.equal((ours * 255).round().byte().permute(1, 2, 0), torch.tensor(decoded))
        assert matches(ours * 255, (ours * 255).round(), 1e-4)


# --- blur


@of_each_benchmark
@at_each_severity
@pytest.mark.parametrize("shape", [(8, 8), (23, 40), (70, 66)], ids=str)
def test_gaussian_blur_c_is_scipys(
    level: int, parameters: Parameters, shape: tuple[int, int]
) -> None:
    (sigma,) = numbers_of("gaussian_blur_c", level, parameters)
    image = noise(3, *shape)
    ours = Distortion("gaussian_blur_c", parameters=parameters)(image[None], level)[0]
    assert matches(ours, by_channel(gaussian_by_scipy(sigma), image))


@pytest.mark.parametrize("border", OPENCV_BORDERS)
@pytest.mark.parametrize("shape", [(2, 3, 64, 70), (3, 80, 52), (64, 64)], ids=str)
def test_opencvs_filters_are_the_products_that_gradients_take(
    border: AnyBorder, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = noise(*shape)
    down, across = (0.1, 0.2, 0.3, 0.25, 0.15), (0.1, 0.5, 0.4)
    tracked = separable(images.clone().requires_grad_(), down, border, across)
    assert tracked.grad_fn is not None
    assert matches(separable(images, down, border, across), tracked.detach())
    monkeypatch.setattr(filters, "opencv", lambda: None)  # not installed
    assert torch.equal(separable(images, down, border, across), tracked)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 5, 9), (1, 3, 40, 12)], ids=str)
def test_all_ways_to_pad_agree(shape: tuple[int, ...]) -> None:
    images = noise(*shape)
    for border in ("nearest", "mirror", "reflect"):
        for sides in ((0, 0, 0, 0), (2, 1, 0, 3), (4, 4, 8, 8), (11, 3, 2, 30)):
            height, width = shape[-2:]
            rows = filters.padding_indices(height, *sides[:2], border)
            columns = filters.padding_indices(width, *sides[2:], border)
            expected = images[..., rows, :][..., columns]
            assert torch.equal(filters.padded_around(images, *sides, border), expected)


@of_each_benchmark
@at_each_severity
@pytest.mark.parametrize("shape", [(8, 8), (23, 40)], ids=str)
def test_defocus_is_opencvs_filter_with_a_smoothed_disc(
    level: int, parameters: Parameters, shape: tuple[int, int]
) -> None:
    radius, smoothing = numbers_of("defocus_blur", level, parameters)
    half = max(8, radius)
    disc = np.zeros((2 * half + 1, 2 * half + 1), np.float64)
    for y in range(-half, half + 1):
        for x in range(-half, half + 1):
            disc[half + y, half + x] = math.hypot(y, x) <= radius + 1e-9
    size = 3 if radius <= 8 else 5
    disc = cv2.GaussianBlur(disc / disc.sum(), (size, size), smoothing)
    image = noise(3, *shape)
    theirs = by_channel(lambda plane: cv2.filter2D(plane, -1, disc), image)
    ours = Distortion("defocus_blur", parameters=parameters)(image[None], level)[0]
    assert matches(ours, theirs)


def moved_along_a_line(plane: np.ndarray, degrees: float, radius: int, sigma: float) -> np.ndarray:
    """Motion blur in a loop over half a Gaussian along a line.

    Nearest pixels are taken, edges are repeated, and nothing comes from farther away than the
    image's width or height.
    """
    height, width = plane.shape
    distances = np.arange(2 * radius + 1)
    weights = scipy.stats.norm.pdf(distances, scale=sigma)
    weights /= weights.sum()
    rows, columns = np.mgrid[:height, :width]
    total = np.zeros_like(plane)
    for distance, weight in zip(distances, weights, strict=True):
        down = math.ceil(distance * math.sin(math.radians(degrees)) - 0.5)
        right = math.ceil(distance * math.cos(math.radians(degrees)) - 0.5)
        if abs(down) >= height or abs(right) >= width:
            break
        total += (
            weight * plane[(rows + down).clip(0, height - 1), (columns + right).clip(0, width - 1)]
        )
    return total


@of_each_benchmark
@at_each_severity
@pytest.mark.parametrize("shape", [(8, 8), (45, 50), (64, 70)], ids=str)
def test_motion_blur_is_a_loop_over_places_on_a_line(
    level: int, parameters: Parameters, shape: tuple[int, int]
) -> None:
    radius, sigma = numbers_of("motion_blur", level, parameters)
    images, seeds = noise(3, 3, *shape), torch.tensor([1, 22, 333])
    blurred = Distortion("motion_blur", parameters=parameters)(images, level, seeds)
    angles = Draws(seeds.tolist(), CPU).uniform(low=-45, high=45).tolist()
    assert len(set(angles)) == 3
    assert all(-45 <= angle < 45 for angle in angles)
    for image, ours, angle in zip(images, blurred, angles, strict=True):
        theirs = by_channel(
            lambda plane, angle=angle: moved_along_a_line(plane, angle, radius, sigma), image
        )
        assert matches(ours, theirs)


def enlarged_by_scipy(plane: np.ndarray, factor: float) -> np.ndarray:
    """The centre of a plane, enlarged by SciPy and cropped to its centre again."""
    height, width = plane.shape
    inner = (math.ceil(height / factor), math.ceil(width / factor))
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    part = plane[top : top + inner[0], left : left + inner[1]]
    large = np.array(scipy.ndimage.zoom(part, factor, order=1))
    top, left = (large.shape[0] - height) // 2, (large.shape[1] - width) // 2
    return large[top : top + height, left : left + width]


@of_each_benchmark
@at_each_severity
@pytest.mark.parametrize("shape", [(9, 13), (32, 32), (64, 50)], ids=str)
def test_zoom_blur_is_the_mean_of_scipys_zooms(
    level: int, parameters: Parameters, shape: tuple[int, int]
) -> None:
    stop, step = numbers_of("zoom_blur", level, parameters)
    factors = np.arange(1, stop, step)
    image = noise(3, *shape)

    def zoomed(plane: np.ndarray) -> np.ndarray:
        views = [plane, *(enlarged_by_scipy(plane, factor) for factor in factors)]
        return np.mean(views, 0)

    ours = Distortion("zoom_blur", parameters=parameters)(image[None], level)[0]
    assert matches(ours, by_channel(zoomed, image))


@of_each_benchmark
@at_each_severity
@pytest.mark.parametrize("shape", [(3, 9, 13), (1, 32, 28), (1, 64, 65)], ids=str)
def test_glass_blur_copies_pixels_one_after_the_other_from_the_last_to_the_first(
    level: int, parameters: Parameters, shape: tuple[int, int, int]
) -> None:
    sigma, reach, rounds = numbers_of("glass_blur", level, parameters)
    image = noise(*shape)
    planes = by_channel(gaussian_by_scipy(sigma), image)
    draws = Draws([5], CPU)
    height, width = shape[1:]
    for _ in range(rounds):
        (down, right) = draws.integers(-reach, reach, 2, height, width)[0].tolist()
        for y in range(height - reach, reach, -1):
            for x in range(width - reach, reach, -1):
                planes[:, y, x] = planes[:, y + down[y][x], x + right[y][x]].clone()
    theirs = by_channel(gaussian_by_scipy(sigma), planes)
    glass = Distortion("glass_blur", parameters=parameters)
    assert matches(glass(image[None], level, torch.tensor([5]))[0], theirs)


# --- weather


def diamond_square(side: int, decay: float, drawn: Iterator[float]) -> np.ndarray:
    """Midpoint displacement on a torus, point by point."""
    cloud = np.zeros((side, side))
    step, reach = side, 100.0
    while step > 1:
        half = step // 2
        for y_first, x_first, around in (
            (half, half, ((-half, -half), (-half, half), (half, -half), (half, half))),
            (0, half, ((-half, 0), (half, 0), (0, -half), (0, half))),
            (half, 0, ((-half, 0), (half, 0), (0, -half), (0, half))),
        ):
            for y in range(y_first, side, step):
                for x in range(x_first, side, step):
                    near = [cloud[(y + dy) % side, (x + dx) % side] for dy, dx in around]
                    cloud[y, x] = sum(near) / 4 + reach**2 * next(drawn)
        step, reach = half, reach / decay
    return (cloud - cloud.min()) / (cloud.max() - cloud.min())


@pytest.mark.parametrize("pixels", [2, 9, 16])
def test_clouds_are_the_diamond_square_algorithms(pixels: int) -> None:
    side = {2: 2, 9: 16, 16: 16}[pixels]
    clouds = plasma(Draws([3, 4], CPU), pixels, 1.75)
    drawn = Draws([3, 4], CPU).uniform(side * side, low=-1, high=1).double().tolist()
    for ours, numbers in zip(clouds, drawn, strict=True):
        assert matches(ours, torch.tensor(diamond_square(side, 1.75, iter(numbers))))


def test_clouds_fill_the_range_and_wrap_around() -> None:
    clouds = plasma(Draws(range(20), CPU), 64, 2.0)
    assert clouds.shape == (20, 64, 64)
    assert clouds.amin((1, 2)).tolist() == [0] * 20
    assert clouds.amax((1, 2)).tolist() == [1] * 20
    for axis in (1, 2):
        steps = clouds.diff(dim=axis).square().mean()
        seam = (clouds.select(axis, 0) - clouds.select(axis, -1)).square().mean()
        assert float(seam) == pytest.approx(float(steps), rel=0.5)


def test_clouds_are_smoother_where_the_displacement_decays_faster() -> None:
    roughness = [
        float(plasma(Draws(range(20), CPU), 64, decay).diff().var())
        for decay in (1.4, 1.5, 1.7, 2, 3)
    ]
    assert roughness == sorted(roughness, reverse=True)
    assert roughness[-1] < roughness[0] / 5


@of_each_benchmark
@at_each_severity
def test_fog_adds_a_cloud_and_brings_the_brightness_back(
    level: int, parameters: Parameters
) -> None:
    thickness, decay = numbers_of("fog", level, parameters)
    images, seeds = pictures(2, 20, 33), torch.tensor([8, 9])
    clouds = plasma(Draws(seeds.tolist(), CPU), 33, decay)[:, None, :20, :33]
    peak = torch.tensor([float(image.max()) for image in images]).view(2, 1, 1, 1)
    theirs = ((images + thickness * clouds) * peak / (peak + thickness)).clamp(0, 1)
    assert matches(Distortion("fog", parameters=parameters)(images, level, seeds), theirs)


@of_each_benchmark
@at_each_severity
@pytest.mark.parametrize("channels", [1, 3])
def test_snow_is_whitening_and_streaks_both_ways(
    level: int, parameters: Parameters, channels: int
) -> None:
    mean, deviation, size, threshold, radius, sigma, kept = numbers_of("snow", level, parameters)
    image = pictures(1, 40, 30, channels)[0]
    draws = Draws([6], CPU)
    flakes = mean + deviation * draws.normal(1, 40, 30)[0, 0].double().numpy()
    flakes = enlarged_by_scipy(flakes, size)
    flakes = np.where(flakes < threshold, 0, flakes).clip(0, 1)
    (angle,) = draws.uniform(low=-135, high=-45).tolist()
    streaks = moved_along_a_line(flakes, angle, radius, sigma)
    grey = image[0].numpy()
    if channels == 3:
        grey = cv2.cvtColor(image.permute(1, 2, 0).contiguous().numpy(), cv2.COLOR_RGB2GRAY)
    whitened = np.maximum(image.numpy(), 1.5 * grey + 0.5)
    theirs = kept * image.numpy() + (1 - kept) * whitened + streaks + np.rot90(streaks, 2)
    ours = Distortion("snow", parameters=parameters)(image[None], level, torch.tensor([6]))[0]
    assert matches(ours, torch.tensor(theirs.clip(0, 1)))


@pytest.mark.parametrize("number", range(5))
def test_frosts_textures_have_the_measured_colours_and_spectrum(number: int) -> None:
    look = TEXTURES[number]
    ice = texture(number, 1.1, CPU).double() * 255
    for channel, colours in zip(ice, look.colours, strict=True):
        found = np.quantile(channel.numpy(), SHARES)
        assert found == pytest.approx(np.array(colours), abs=0.5)
    power = np.abs(np.fft.fft2((ice[1] - ice[1].mean()).numpy())) ** 2
    cycles = np.fft.fftfreq(ice.shape[1]) * 224
    radius = np.hypot(cycles[:, None], cycles[None])
    found = [
        power[np.abs(radius - frequency) < 0.03 * frequency].mean()
        for frequency in FREQUENCIES
        if frequency >= 8
    ]
    wanted = look.spectrum[len(FREQUENCIES) - len(found) :]
    ratio = np.log(np.array(found) / np.array(wanted))
    assert np.ptp(ratio) < math.log(1.6)


@pytest.mark.parametrize("number", range(5))
def test_frosts_crystals_are_spread_unevenly(number: int) -> None:
    """Their contrast varies locally by far more than that of evenly distributed crystals."""
    ice = texture(number, 1.1, CPU).double().mean(0).numpy()
    fine = ice - scipy.ndimage.gaussian_filter(ice, 4, mode="wrap")
    contrast = np.log(scipy.ndimage.gaussian_filter(fine**2, 16, mode="wrap")) / 2
    assert contrast.std() > 0.15
    bright = scipy.ndimage.gaussian_filter(ice, 16, mode="wrap")
    assert (np.corrcoef(contrast.ravel(), bright.ravel())[0, 1] < -0.5) == (number in (1, 2))


@pytest.mark.parametrize("scale", [0.2, 1.1])
@pytest.mark.parametrize("number", range(5))
def test_frosts_textures_have_no_seam(number: int, scale: float) -> None:
    ice = texture(number, scale, CPU)
    assert (float(ice.min()) >= 0, float(ice.max()) <= 1) == (True, True)
    for axis in (1, 2):
        steps = ice.diff(dim=axis).square().mean((0, 3 - axis)).sqrt()
        seam = (ice.select(axis, 0) - ice.select(axis, -1)).square().mean().sqrt()
        assert float(seam) < 1.2 * float(steps.max())


@of_each_benchmark
@at_each_severity
def test_frost_is_a_weighted_sum_with_a_cut_of_a_texture(
    level: int, parameters: Parameters
) -> None:
    kept, weight, scale = numbers_of("frost", level, parameters)
    images, seeds = pictures(6, 20, 33), torch.arange(6)
    frosted = Distortion("frost", parameters=parameters)(images, level, seeds)
    for image, ours, (pick, down, right) in zip(
        images, frosted, Draws(range(6), CPU).uniform(3).tolist(), strict=True
    ):
        ice = texture(int(5 * pick), scale, CPU).numpy()
        side = ice.shape[1]
        cut = np.roll(ice, (-int(down * side), -int(right * side)), (1, 2))[:, :20, :33]
        assert matches(ours, (kept * image + weight * torch.tensor(cut)).clamp(0, 1))


def test_frost_of_a_grey_image_is_the_grey_of_its_frost() -> None:
    image, frost = pictures(1, 20, 33, 1) / 4, Distortion("frost", parameters="cifar")
    coloured = frost(image.expand(-1, 3, -1, -1), 1, torch.tensor([3]))[0]
    grey = cv2.cvtColor(coloured.permute(1, 2, 0).contiguous().numpy(), cv2.COLOR_RGB2GRAY)
    assert matches(frost(image, 1, torch.tensor([3]))[0, 0], torch.tensor(grey))


def test_five_textures_and_all_their_places_are_drawn() -> None:
    frosted = Distortion("frost")(torch.zeros(200, 1, 8, 8), 1, torch.arange(200))
    picks = (Draws(range(200), CPU).uniform(3)[:, 0] * 5).int()
    assert scipy.stats.chisquare(torch.bincount(picks).numpy()).pvalue > 1e-3
    assert len(frosted.flatten(1).unique(dim=0)) > 190  # few positions are drawn twice


# --- spatter


def drops(seed: int, height: int, width: int, numbers: tuple) -> np.ndarray:
    """The liquid on the lens, from the same draws: noise blurred by SciPy."""
    mean, deviation, size = numbers[:3]
    liquid = Draws([seed], CPU).normal(1, height, width)[0, 0].double().numpy()
    return gaussian_by_scipy(size)(mean + deviation * liquid)


MUDDY = [
    (level, each) for each in SETS for level in LEVELS if numbers_of("spatter", level, each)[5]
]
WET = [(level, each) for each in SETS for level in LEVELS if (level, each) not in MUDDY]


@pytest.mark.parametrize(("level", "parameters"), MUDDY)
def test_mud_covers_what_lies_under_thick_drops(level: int, parameters: Parameters) -> None:
    numbers = numbers_of("spatter", level, parameters)
    image = pictures(1, 48, 40)[0]
    cover = gaussian_by_scipy(numbers[4])((drops(2, 48, 40, numbers) > numbers[3]) * 1.0)
    cover = torch.tensor(np.where(cover < 0.8, 0, cover))
    brown = torch.tensor(MUD).view(3, 1, 1) / 255
    theirs = image * (1 - cover) + cover * brown
    ours = Distortion("spatter", parameters=parameters)(image[None], level, torch.tensor([2]))[0]
    assert matches(ours, theirs)
    assert float((cover > 0).double().mean()) > 0.01


@pytest.mark.parametrize(("level", "parameters"), WET)
def test_water_shines_as_opencv_computes_it(level: int, parameters: Parameters) -> None:
    """With Canny edges, distance transform, equalisation and a relief filter on 8-bit images."""
    numbers = numbers_of("spatter", level, parameters)
    liquid = drops(2, 96, 80, numbers)
    depth = np.where(liquid > numbers[3], liquid * 255, 0).astype(np.uint8)
    away = cv2.distanceTransform(255 - cv2.Canny(depth, 50, 150), cv2.DIST_L2, cv2.DIST_MASK_5)
    away = cv2.equalizeHist(cv2.blur(away.clip(0, 20), (3, 3)).astype(np.uint8))
    relief = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    lit = cv2.blur(cv2.filter2D(away, cv2.CV_8U, relief), (3, 3))
    shine = depth.astype(np.float64) * lit
    shine *= numbers[4] / shine.max()
    turquoise = torch.tensor(WATER).view(3, 1, 1) / 255
    ours = Distortion("spatter", parameters=parameters)(
        torch.zeros(1, 3, 96, 80), level, torch.tensor([2])
    )[0]
    off = (ours - torch.tensor(shine) * turquoise).abs()
    assert float(off.mean()) < 0.002 * numbers[4]
    assert float((off > 0.05 * numbers[4]).double().mean()) < 0.005


@pytest.mark.parametrize("level", [1, 2, 3])
def test_water_only_brightens_and_is_pale_turquoise(level: int) -> None:
    images = pictures(3, 32, 32) / 3
    wet = Distortion("spatter", parameters="imagenet")(images, level, torch.arange(3)) - images
    strength = numbers_of("spatter", level, "imagenet")[4]
    assert float(wet.min()) > -1e-6
    assert matches(wet[:, 0] / 175, wet[:, 2] / 238, 1e-7)
    assert torch.equal(wet[:, 1], wet[:, 2]) or matches(wet[:, 1], wet[:, 2], 1e-6)
    peaks = wet[:, 1].amax((1, 2)) / (238 / 255)
    assert peaks.tolist() == pytest.approx([strength] * 3, abs=1e-5)


# --- elastic


@of_each_benchmark
@at_each_severity
@pytest.mark.parametrize("shape", [(32, 32), (40, 55)], ids=str)
def test_elastic_is_an_affine_map_of_three_points_and_scipys_sampling(
    level: int, parameters: Parameters, shape: tuple[int, int]
) -> None:
    strength, smoothness, slant = numbers_of("elastic_transform", level, parameters)
    height, width = shape
    image, draws = pictures(1, *shape)[0], Draws([4], CPU)
    theirs, places = image, np.mgrid[:height, :width].astype(np.float64)
    if slant:
        moves = draws.uniform(3, 2, low=-slant, high=slant)[0].numpy() * min(shape)
        far = min(shape) // 3
        around = np.array([(far, far), (far, -far), (-far, -far)])
        corners = np.add(around, (width // 2, height // 2))
        there = cv2.getAffineTransform(
            (corners + moves).astype(np.float32), corners.astype(np.float32)
        )
        x, y = there @ np.stack([places[1].ravel(), places[0].ravel(), np.ones(height * width)])
        theirs = by_channel(
            lambda plane: scipy.ndimage.map_coordinates(
                plane, (y, x), order=1, mode="mirror"
            ).reshape(shape),
            theirs,
        )
    if strength:
        field = draws.uniform(2, *shape, low=-1, high=1)[0].double().numpy()
        wide = (smoothness * height, smoothness * width)
        smooth = [scipy.ndimage.gaussian_filter(f, wide, mode="reflect", truncate=3) for f in field]
        moved = places + np.stack(smooth) * strength * height
        theirs = by_channel(
            lambda plane: scipy.ndimage.map_coordinates(plane, moved, order=1, mode="reflect"),
            theirs,
        )
    elastic = Distortion("elastic_transform", parameters=parameters)
    assert matches(elastic(image[None], level, torch.tensor([4]))[0], theirs, 1e-4)


# --- noise


def clipped_moments(mean: float, deviation: float) -> tuple[float, float]:
    """The mean and standard deviation of a normal number clipped to [0, 1], by integration."""
    law = scipy.stats.norm(mean, deviation)
    places = law.ppf((np.arange(200_000) + 0.5) / 200_000).clip(0, 1)
    return float(places.mean()), float(places.std())


@of_each_benchmark
@at_each_severity
@pytest.mark.parametrize("value", [0.1, 0.5, 0.9])
def test_gaussian_and_speckle_noise_are_clipped_normal_numbers(
    level: int, parameters: Parameters, value: float
) -> None:
    images = torch.full((2, 3, 80, 80), value)
    for name, scale in (("gaussian_noise", 1), ("speckle_noise", value)):
        (sigma,) = numbers_of(name, level, parameters)
        mean, deviation = clipped_moments(value, sigma * scale)
        noisy = Distortion(name, parameters=parameters)(images, level, seeded()).double()
        standard_error = deviation / noisy.numel() ** 0.5
        assert float(noisy.mean()) == pytest.approx(mean, abs=4 * standard_error)
        assert float(noisy.std()) == pytest.approx(deviation, rel=0.03)
        assert (float(noisy.min()) >= 0, float(noisy.max()) <= 1) == (True, True)


def test_unclipped_gaussian_noise_is_normal() -> None:
    image = torch.full((1, 1, 100, 100), 0.5)
    noisy = Distortion("gaussian_noise", parameters="cifar")(image, 3, seeded())
    standardised = ((noisy - 0.5) / 0.08).double().flatten().numpy()
    assert scipy.stats.kstest(standardised, "norm").pvalue > 1e-3


@of_each_benchmark
@at_each_severity
def test_impulse_noise_makes_a_share_black_or_white(level: int, parameters: Parameters) -> None:
    (share,) = numbers_of("impulse_noise", level, parameters)
    images = noise(4, 3, 64, 64) * 0.8 + 0.1
    noisy = Distortion("impulse_noise", parameters=parameters)(images, level, seeded())
    spread = (share / 2 / images.numel()) ** 0.5
    for extreme in (noisy == 0, noisy == 1):
        assert float(extreme.double().mean()) == pytest.approx(share / 2, abs=4 * spread)
    untouched = (noisy > 0) & (noisy < 1)
    assert torch.equal(noisy[untouched], images[untouched])


def fits_poisson(counts: Tensor, mean: float) -> bool:
    """A chi-square test, in which counts with an expectation below five are merged."""
    total = counts.numel()
    highest = int(counts.max()) + 2
    seen = torch.bincount(counts.flatten().long(), minlength=highest).double().numpy()
    expected = scipy.stats.poisson.pmf(np.arange(highest), mean) * total
    usual = expected >= 5
    seen = np.append(seen[usual], total - seen[usual].sum())
    expected = np.append(expected[usual], total - expected[usual].sum())
    if expected[-1] < 1e-6:
        return seen[-1] == 0 and scipy.stats.chisquare(seen[:-1], expected[:-1]).pvalue > 1e-3
    return float(scipy.stats.chisquare(seen, expected).pvalue) > 1e-3


@pytest.mark.parametrize(
    ("share", "most"),
    [
        (1 / 255, 60.0),
        (128 / 255, 60.0),
        (1.0, 60.0),
        (200 / 255, 3.0),
        (77 / 255, 500.0),
        (0.4321, 60.0),
        (0.9999, 3.0),
        (0.0013, 60.0),
        (0.5678, 500.0),
    ],
)
def test_counts_are_poissons_whether_or_not_the_values_are_of_8_bits(
    share: float, most: float
) -> None:
    counts = Draws([1, 2], CPU).poisson(torch.full((2, 3, 100, 100), share), most)
    assert torch.equal(counts, counts.round())
    assert fits_poisson(counts, share * most)
    first, second = counts
    assert not torch.equal(first, second)


def test_no_light_gives_no_counts() -> None:
    assert not Draws([1], CPU).poisson(torch.zeros(1, 3, 100, 100), 60.0).any()


@pytest.mark.parametrize("value", [51 / 255, 0.2345, 0.5])
@of_each_benchmark
@pytest.mark.parametrize("level", [1, 3])
def test_shot_noises_variance_is_the_value_over_the_photons(
    level: int, parameters: Parameters, value: float
) -> None:
    (photons,) = numbers_of("shot_noise", level, parameters)
    possible = np.arange(2000)
    chances = scipy.stats.poisson.pmf(possible, value * photons)
    values = (possible / photons).clip(0, 1)
    mean = float((chances * values).sum())
    deviation = float((chances * (values - mean) ** 2).sum()) ** 0.5
    images = torch.full((2, 3, 100, 100), value)
    noisy = Distortion("shot_noise", parameters=parameters)(images, level, seeded()).double()
    assert float(noisy.mean()) == pytest.approx(mean, abs=4 * deviation / noisy.numel() ** 0.5)
    assert float(noisy.std()) == pytest.approx(deviation, rel=0.03)
