"""The distortions as a library of their own: a transform, arrays, and nothing else to install."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from deepcorrect.distortions import (
    GROUPS,
    KINDS,
    Distort,
    Distortion,
    corrupt,
    get_corruption_names,
)
from deepcorrect.distortions._filters import fast_length
from deepcorrect.runtime import InputError, try_torchvision

ROOT = Path(__file__).parent.parent


def photo(*shape: int) -> Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


# --- what is imported

ALONE = """
import importlib.metadata, re, sys

ALLOWED = {"torch", "numpy", "opencv-python-headless"}

def named(requirement):
    return re.match(r"[\\w.-]+", requirement).group().lower().replace("_", "-")

def closure(names):
    found = set()
    while names:
        name = names.pop()
        if name in found:
            continue
        found.add(name)
        try:
            needed = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another system
        names |= {named(each) for each in needed if "extra ==" not in each}
    return found

provided = importlib.metadata.packages_distributions()
own = {each.lower().replace("_", "-") for each in provided["deepcorrect"]}
kept = closure(set(ALLOWED)) | own
blocked = {
    module for module, owners in provided.items()
    if not {each.lower().replace("_", "-") for each in owners} & kept
    and module not in {"dill", "tqdm", "__editable___" + module}
}
assert {"PIL", "rich", "scipy", "pydantic", "yaml", "datasets", "typer"} <= blocked

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked and name not in optional:
            raise ImportError(f"blocked: {name}")

optional = set()
sys.meta_path.insert(0, Block())
import deepcorrect.distortions as distortions
import numpy as np, torch

assert not blocked & {name.partition(".")[0] for name in sys.modules}
images, seeds = torch.rand(2, 3, 32, 32), torch.tensor([1, 2])
for name in distortions.KINDS:
    for level in distortions.Distortion(name).for_size(32).levels[-1:]:
        distortions.Distortion(name)(images, level, seeds)
distortions.Distort("imagenet_c")(images)
array = (images[0].permute(1, 2, 0) * 255).byte().numpy()
for name in distortions.get_corruption_names("all"):
    distortions.corrupt(array, 3, name)
assert not blocked & {name.partition(".")[0] for name in sys.modules}
print("done")
"""


def test_every_kind_runs_with_torch_numpy_and_opencv_alone() -> None:
    call = [sys.executable, "-c", ALONE]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_lengths_for_fourier_transforms_are_scipys() -> None:
    import scipy.fft

    for pixels in range(1, 700):
        assert fast_length(pixels) == scipy.fft.next_fast_len(pixels, real=True)


# --- Distort


@pytest.mark.parametrize("shape", [(3, 40, 36), (1, 40, 36), (4, 3, 40, 36)], ids=str)
def test_bytes_give_bytes_and_floats_floats_of_the_same_shape(shape: tuple[int, ...]) -> None:
    images = photo(*shape)
    for dtype in (torch.uint8, torch.float32, torch.float64, torch.bfloat16):
        given = images if dtype == torch.uint8 else (images / 255).to(dtype)
        before = given.clone()
        result = Distort("fog", severity=3)(given)
        assert (result.shape, result.dtype) == (given.shape, dtype)
        assert torch.equal(given, before)


def test_a_transform_gives_what_the_distortion_gives() -> None:
    images = photo(4, 3, 32, 32)
    for name in ("gaussian_blur", "defocus_blur"):
        for place, level in enumerate(Distortion(name).for_size(32).levels, start=1):
            ours = Distort(name, severity=place)(images)
            theirs = Distortion(name, quantize=True)(images / 255, level)
            assert torch.equal(ours, (theirs * 255).round().byte())


def test_severity_is_the_place_in_the_grid_for_the_size_of_the_image() -> None:
    for pixels, sigma in ((32, 1.5), (224, 3.0)):
        image = photo(3, pixels, pixels) / 255
        assert torch.equal(
            Distort("gaussian_blur", severity=3)(image),
            Distortion("gaussian_blur")(image[None], sigma)[0],
        )


def test_the_default_generator_decides() -> None:
    transform, image = Distort("imagenet_c"), photo(3, 32, 32)
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        results.append(transform(image))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_each_image_of_a_batch_draws_its_own_kind_level_and_noise() -> None:
    image = torch.full((3, 32, 32), 0.25)
    batch = image.expand(600, -1, -1, -1)
    result = Distort(["brightness", "awgn:20,100"], severity=None)(batch)
    spread = result.flatten(1).std(1) * 255
    bright = spread < 1e-3
    assert int(bright.sum()) == pytest.approx(300, abs=60)
    assert len(result[bright][:, 0, 0, 0].unique()) == 5  # five severities
    assert int((spread > 60).sum()) == pytest.approx(150, abs=45)
    noisy = result[~bright]
    assert len(noisy[:, 0, 0, 0].unique()) == len(noisy)


def test_several_severities_are_drawn_from() -> None:
    image = torch.full((100, 3, 8, 8), 0.25)
    bright = Distort("brightness", severity=range(2, 4))(image)
    assert {round(float(each), 2) for each in bright[:, 0, 0, 0]} == {0.35, 0.40}


class Photos(Dataset[Tensor]):
    def __init__(self, transform: Distort) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(torch.full((3, 8, 8), 0.5))


def test_workers_and_epochs_draw_other_noise() -> None:
    """Also where workers are started anew, so that the transform is pickled."""
    transform = pickle.loads(pickle.dumps(Distort("awgn", severity=1)))
    torch.manual_seed(0)
    loader = DataLoader(Photos(transform), batch_size=4, num_workers=2)
    images = torch.cat([batch for _ in range(2) for batch in loader])
    assert len(images.flatten(1).unique(dim=0)) == 16


def test_it_stands_in_torchvisions_pipelines_and_keeps_their_types() -> None:
    try_torchvision()
    tv_tensors = pytest.importorskip("torchvision.tv_tensors")
    from torchvision.transforms import v2

    image = tv_tensors.Image(photo(3, 48, 48))
    pipeline = v2.Compose(
        [
            v2.RandomCrop(32),
            v2.RandomApply([Distort("frost", severity=2)], p=1.0),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    result = pipeline(image)
    assert isinstance(result, tv_tensors.Image)
    assert (result.shape, result.dtype) == ((3, 32, 32), torch.float32)
    result, label = v2.Compose([Distort("snow", severity=1)])(image, 7)
    assert label == 7
    assert isinstance(result, tv_tensors.Image)


def test_a_transform_prints_what_it_does() -> None:
    assert repr(Distort("fog", severity=3)) == "Distort(fog, severity=(3,))"
    assert repr(Distort(["fog", "awgn:10"])) == "Distort(fog, awgn)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fogg",), "unknown distortion 'fogg'"),
        (([],), "no distortion is named"),
        ((["fog", "imagenet_c"],), "named twice"),
        (("fog", 6), "severity 6 of 'fog' is not a whole number from 1 to 5"),
        (("fog", 0), "severity=0 is not a whole number from 1 on"),
        (("fog", True), "severity=True is not a whole number from 1 on"),
        (("fog", 2.5), "severity=2.5 is not a whole number from 1 on"),
        (("fog", []), "severity=[] is not a whole number from 1 on"),
        (("fog", [1, 1]), "or several different ones"),
        (("awgn:10", 1), "beside awgn's own levels (10.0,): give one of the two"),
    ],
)
def test_what_a_transform_does_not_take_is_refused_when_it_is_made(
    arguments: tuple, message: str
) -> None:
    with pytest.raises(InputError, match=".*") as error:
        Distort(*arguments)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((8, 8, 3)), "put torchvision.transforms.v2.ToImage() before it"),
        (torch.zeros(8, 8), "not on a torch.float32 tensor of shape (8, 8)"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "not on a torch.int64 tensor"),
        (torch.zeros(4, 8, 8), "1 or 3 channels"),
    ],
)
def test_images_in_other_forms_are_refused(images: Tensor, message: str) -> None:
    with pytest.raises(InputError) as error:
        Distort("snow", severity=1)(images)
    assert message in str(error.value)


def test_a_negative_seed_of_an_image_is_refused() -> None:
    with pytest.raises(InputError, match="seed -3 is not from 0 to"):
        Distortion("fog")(torch.zeros(2, 3, 8, 8), 1, torch.tensor([4, -3]))


# --- corrupt


def test_names_and_numbers_are_those_of_imagecorruptions() -> None:
    names = get_corruption_names("all")
    assert names[:15] == get_corruption_names() == list(GROUPS["imagenet_c"])
    assert names[15:] == ["speckle_noise", "gaussian_blur", "spatter", "saturate"]
    assert get_corruption_names("noise") == ["gaussian_noise", "shot_noise", "impulse_noise"]
    assert get_corruption_names("blur")[0] == "defocus_blur"
    assert get_corruption_names("digital")[-1] == "jpeg_compression"
    assert set(names) <= set(KINDS)


@pytest.mark.parametrize("shape", [(40, 36, 3), (40, 36, 1), (40, 36)], ids=str)
def test_arrays_give_arrays_of_bytes_in_three_channels(shape: tuple[int, ...]) -> None:
    image = photo(*shape).numpy()
    for number, name in enumerate(get_corruption_names("all")):
        result = corrupt(image, corruption_name=name, severity=2, seed=5)
        assert (result.shape, result.dtype) == ((40, 36, 3), np.uint8)
        assert np.array_equal(result, corrupt(image, 2, corruption_number=number, seed=5)), name


def test_corrupt_has_imagenets_parameters_at_every_size_and_their_gaussian_blur() -> None:
    image = photo(32, 32, 3).numpy()
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    for name in ("contrast", "gaussian_blur_c"):
        theirs = Distortion(name, parameters="imagenet")(tensor, 4)
        ours = corrupt(image, corruption_name=name.removesuffix("_c"), severity=4)
        assert np.abs(ours / 255 - theirs[0].permute(1, 2, 0).numpy()).max() <= 0.51 / 255


def test_numpys_seed_repeats_what_is_drawn() -> None:
    image, drawn = photo(32, 32, 3).numpy(), []
    for seed in (0, 0, 1):
        np.random.seed(seed)
        drawn.append(corrupt(image, corruption_name="frost"))
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


@pytest.mark.parametrize(
    ("image", "named", "message"),
    [
        (np.zeros((8, 8, 3)), {"corruption_number": 0}, "the image is an array of float64"),
        ([[1]], {"corruption_number": 0}, "the image is a list"),
        (np.zeros((8, 8, 4), np.uint8), {"corruption_number": 0}, "the image is 8 x 8 x 4"),
        (np.zeros((8, 8), np.uint8), {}, "give one of the two"),
        (np.zeros((8, 8), np.uint8), {"corruption_number": 19}, "is not from 0 to 18"),
        (np.zeros((8, 8), np.uint8), {"corruption_name": "fgo"}, "unknown corruption 'fgo'"),
        (np.zeros((8, 8), np.uint8), {"corruption_name": "fog", "severity": 0}, "severity 0"),
        (np.zeros((8, 8), np.uint8), {"corruption_name": "fog", "seed": -1}, "seed -1 is not"),
        (np.zeros((8, 8), np.uint8), {"corruption_name": "fog", "seed": 1.5}, "seed 1.5 is not"),
        (np.zeros((8, 8), np.uint8), {"corruption_name": "contrast", "seed": 2**63}, "seed 9"),
    ],
)
def test_what_corrupt_does_not_take_is_refused(image: object, named: dict, message: str) -> None:
    with pytest.raises(InputError) as error:
        corrupt(image, **named)  # pyright: ignore[reportArgumentType]
    assert message in str(error.value)
    with pytest.raises(InputError):
        get_corruption_names("colour")  # pyright: ignore[reportArgumentType]
