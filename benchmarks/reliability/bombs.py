"""Files that are made to run code, to fill the memory, or to reach outside: refused, nothing done.

    python -m benchmarks.reliability.bombs [--only NAME]

Each case is a file or a folder of its own, given to the command that would read it, in a process of
its own with a limit on its memory (8 GB of addresses) and its time (120 s). It must end with status
1 or, where only some of many images are bad, 0; with no traceback; without having made the file
`ran`, or anything else outside `--out`; and within the limits. Writes
benchmarks/results/reliability/bombs.json; with `--only`, the cases whose names begin so are run
again and take their places there.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import resource
import struct
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import deepcorrect as dc
from benchmarks.reliability.cases import call, draw_digits, keep, options
from deepcorrect.runtime import files

ADDRESSES = 8 << 30
SECONDS = 120

Case = Callable[[Path], list[object]]
"""Writes a case into a folder, and says the command that reads it."""


class Exploit:
    """Makes the file `ran` when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return Path.touch, (self.folder / "ran",)


def evaluate(folder: Path, *more: object) -> list[object]:
    return ["evaluate", "--model", "digits_cnn", "--data", f"folder:{folder / 'digits'}", *more]


def weights(folder: Path, path: Path) -> list[object]:
    return evaluate(folder, "--weights", path)


def images(folder: Path, spec: str) -> list[object]:
    del folder
    return ["evaluate", "--model", "digits_cnn", "--data", spec]


# --- code


def pickled(name: str) -> Case:
    def case(folder: Path) -> list[object]:
        path = folder / name
        if name.endswith(".npz"):
            np.savez(path, a=np.array([Exploit(folder)], dtype=object))
        elif name.endswith(".pkl"):
            path.write_bytes(pickle.dumps({"state_dict": Exploit(folder)}))
        else:
            torch.save({"state_dict": Exploit(folder)}, path)
        return weights(folder, path)

    return case


def pickled_safetensors(folder: Path) -> list[object]:
    path = folder / "weights.safetensors"
    path.write_bytes(pickle.dumps(Exploit(folder)))
    return weights(folder, path)


def pickled_array(folder: Path) -> list[object]:
    place = folder / "cifar"
    place.mkdir()
    for name in ("labels.npy", "awgn.npy"):
        np.save(place / name, np.array([Exploit(folder)], dtype=object), allow_pickle=True)
    return ["evaluate", "--model", "digits_cnn", "--data", f"cifar_c:{place}"]


def python_tag(folder: Path) -> list[object]:
    path = folder / "recipe.yaml"
    path.write_text(f"!!python/object/apply:os.system ['touch {folder}/ran']\n")
    return ["run", path, "--out", folder / "out"]


def code_in_a_repository(folder: Path) -> list[object]:
    place = folder / "repository"
    place.mkdir()
    (place / "config.json").write_text(
        json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "code.Mine"}})
    )
    (place / "code.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nMine = None\n")
    return ["evaluate", "--model", f"hf:{place}", "--data", f"folder:{folder / 'digits'}"]


def code_in_a_data_set(folder: Path) -> list[object]:
    place = folder / "mine"
    place.mkdir()
    (place / "mine.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    return images(folder, f"hf:{place}")


def pickled_adapter(folder: Path) -> list[object]:
    place = saved_adapter(folder)
    (place / "adapter_model.safetensors").write_bytes(pickle.dumps(Exploit(folder)))
    return evaluate(folder, "--adapter", place)


def pickled_ranking(folder: Path) -> list[object]:
    place = folder / "ranking"
    place.mkdir()
    (place / "ranking_levels.safetensors").write_bytes(pickle.dumps(Exploit(folder)))
    return ["rank", "--compare", place, place]


def pickled_program(folder: Path) -> list[object]:
    path = folder / "network.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Exploit(folder)))
        archive.writestr("archive/version", "3")
    return weights(folder, path)


# --- memory


def saved_adapter(folder: Path) -> Path:
    adapted = dc.correct(dc.load_model("digits_cnn"), {"features.0.0": [1]}, unit="dense")
    return adapted.save_pretrained(folder / "adapter")


def deep_json(folder: Path) -> list[object]:
    place = saved_adapter(folder)
    (place / "adapter_config.json").write_text('{"a":' * 200_000)
    return evaluate(folder, "--adapter", place)


def long_number(folder: Path) -> list[object]:
    place = saved_adapter(folder)
    (place / "adapter_config.json").write_text("9" * 40_000_000)
    return evaluate(folder, "--adapter", place)


def endless_json(folder: Path) -> list[object]:
    place = saved_adapter(folder)
    path = place / "adapter_config.json"
    path.unlink()
    path.symlink_to("/dev/zero")
    return evaluate(folder, "--adapter", place)


def recipe_of(text: str) -> Case:
    def case(folder: Path) -> list[object]:
        (folder / "recipe.yaml").write_text(text)
        return ["run", folder / "recipe.yaml", "--out", folder / "out"]

    return case


LAUGHS = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 40)
)
MERGES = "m0: &m0 {k: 1}\n" + "".join(
    f"m{n}: &m{n} {{a: *m{n - 1}, b: *m{n - 1}}}\n" for n in range(1, 60)
)


def zip_bomb(folder: Path) -> list[object]:
    path = folder / "weights.npz"
    header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 30,)}
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("a.npy", "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(64):
            file.write(bytes(1 << 26))
    return weights(folder, path)


def absurd_array(folder: Path) -> list[object]:
    place = folder / "cifar"
    place.mkdir()
    np.save(place / "labels.npy", np.zeros(4, dtype=np.int64))
    with (place / "awgn.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (1 << 40, 32, 32, 3)}
        np.lib.format.write_array_header_1_0(file, header)
    return images(folder, f"cifar_c:{place}")


def absurd_archive(folder: Path) -> list[object]:
    path, buffer = folder / "weights.npz", io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": (1 << 40,)}
    np.lib.format.write_array_header_1_0(buffer, header)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", buffer.getvalue())
    return weights(folder, path)


def absurd_labels(folder: Path) -> list[object]:
    place = folder / "cifar"
    place.mkdir()
    np.save(place / "labels.npy", np.array([2**63 + 5, 1, 2, 3], dtype=np.uint64))
    np.save(place / "awgn.npy", np.zeros((4, 28, 28, 1), dtype=np.uint8))
    return images(folder, f"cifar_c:{place}")


def absurd_tensors(folder: Path) -> list[object]:
    path = folder / "weights.safetensors"
    header = {"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    return weights(folder, path)


def huge_unit(folder: Path) -> list[object]:
    from deepcorrect.correction._checkpoint import config_sha256  # noqa: PLC0415

    place = saved_adapter(folder)
    path = place / "adapter_config.json"
    config = json.loads(path.read_text())
    config["sites"]["features.0.0"]["unit"].update(width=60_000)
    config["config_sha256"] = config_sha256(config)
    path.write_text(json.dumps(config))
    return evaluate(folder, "--adapter", place)


def png_of(width: int, height: int) -> bytes:
    """A grey PNG of black pixels, which takes a thousandth of the memory that it unpacks to."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packed = zlib.compressobj(9)
    rows = b"".join(packed.compress(bytes(width + 1)) for _ in range(height)) + packed.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def image_bomb(folder: Path) -> list[object]:
    (folder / "digits" / "0" / "bomb.png").write_bytes(png_of(60_000, 30_000))
    return evaluate(folder)


def tar_bomb(folder: Path) -> list[object]:
    path = folder / "shard.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as packed:
        entry = tarfile.TarInfo("a.png")
        entry.size = 6 << 30
        packed.write(entry.tobuf())
        for _ in range(6 << 4):
            packed.write(bytes(1 << 26))
        packed.write(bytes(1024))
    return images(folder, f"webdataset:{path}")


# --- outside


def tar_outside(folder: Path) -> list[object]:
    path = folder / "shard.tar"
    buffer = io.BytesIO()
    Image.new("L", (28, 28)).save(buffer, "PNG")
    with tarfile.open(path, "w") as archive:
        for name in ("../../ran.png", f"{folder}/ran.png", "good.png"):
            entry = tarfile.TarInfo(name)
            entry.size = len(buffer.getvalue())
            archive.addfile(entry, io.BytesIO(buffer.getvalue()))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return images(folder, f"webdataset:{path}")


def name_outside(folder: Path) -> list[object]:
    (folder / "recipe.yaml").write_text("based_on: demo\nname: ..\n")
    return ["run", folder / "recipe.yaml"]


def shards_outside(folder: Path) -> list[object]:
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": "../../../../etc/passwd"}}))
    return weights(folder, path)


def picture_outside(folder: Path) -> list[object]:
    place = folder / "run"
    place.mkdir()
    files.write_json(place / "results.json", {"schema": 1, "systems": {}})
    return ["report", place]


def circle(folder: Path) -> list[object]:
    (folder / "a.yaml").write_text("based_on: x/../b.yaml\n")
    (folder / "b.yaml").write_text("based_on: x/../a.yaml\n")
    (folder / "x").mkdir()
    return ["run", folder / "a.yaml", "--out", folder / "out"]


def pipe_among_images(folder: Path) -> list[object]:
    os.mkfifo(folder / "digits" / "0" / "pipe.png")
    (folder / "digits" / "1" / "zero.png").symlink_to("/dev/zero")
    return evaluate(folder)


def link_to_itself(folder: Path) -> list[object]:
    (folder / "digits" / "0" / "again").symlink_to(folder / "digits")
    return evaluate(folder)


CASES: dict[str, Case] = {
    "pickle: weights.pt": pickled("weights.pt"),
    "pickle: weights.pkl": pickled("weights.pkl"),
    "pickle: weights.npz": pickled("weights.npz"),
    "pickle: weights.safetensors": pickled_safetensors,
    "pickle: arrays of CIFAR-C's layout": pickled_array,
    "pickle: adapter": pickled_adapter,
    "pickle: ranking": pickled_ranking,
    "pickle: exported program": pickled_program,
    "code: YAML tag": python_tag,
    "code: repository of a network": code_in_a_repository,
    "code: repository of a data set": code_in_a_data_set,
    "memory: deep JSON": deep_json,
    "memory: a number of 40 million digits": long_number,
    "memory: JSON without end": endless_json,
    "memory: YAML aliases in lists": recipe_of(LAUGHS),
    "memory: YAML aliases in mappings": recipe_of(MERGES),
    "memory: deep YAML": recipe_of("[" * 100_000),
    "memory: archive of 4 GB of zeros": zip_bomb,
    "memory: array of 3 PB": absurd_array,
    "memory: archived array of 8 TB": absurd_archive,
    "memory: safetensors of 4 TB": absurd_tensors,
    "memory: unit 60,000 wide": huge_unit,
    "memory: image of 1.8 gigapixels": image_bomb,
    "memory: tar entry of 6 GB": tar_bomb,
    "outside: tar entries": tar_outside,
    "outside: a run's name": name_outside,
    "outside: shards of weights": shards_outside,
    "outside: pictures of a report": picture_outside,
    "hang: recipes in a circle": circle,
    "hang: pipe and device among images": pipe_among_images,
    "hang: folder in itself": link_to_itself,
    "labels beyond 63 bits": absurd_labels,
}
SOME_GOOD = ("memory: image", "outside: tar entries", "hang: pipe", "hang: folder in itself")
"""Cases in which good images are left."""


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))


def judge(name: str) -> dict[str, Any]:
    """Runs one case: what it took, and what is wrong about how it ended."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "case"
        draw_digits(folder / "digits", each=1)
        given = CASES[name](folder)
        before = set(Path(place).rglob("*"))
        started = time.monotonic()
        try:
            done = call(*given, seconds=SECONDS, cwd=folder, preexec_fn=_limit)
        except Exception as error:  # of the time limit
            return {"seconds": SECONDS, "wrong": [f"{type(error).__name__}"]}
        seconds = time.monotonic() - started
        wrong = []
        if done.returncode != (0 if name.startswith(SOME_GOOD) else 1):
            wrong.append(f"status {done.returncode}: {done.stderr[-300:]}")
        if "Traceback" in done.stderr:
            wrong.append("a traceback")
        made = set(Path(place).rglob("*")) - before
        outside = [path for path in made if not path.is_relative_to(folder / "out")]
        if outside or (folder / "ran").exists():
            wrong.append(f"made {sorted(path.name for path in outside)}")
        said = done.stderr.strip().splitlines()
        last = said[-1][:200] if said else ""
        return {"seconds": round(seconds, 1), "wrong": wrong, "said": last}


def main() -> None:
    sizes = options(__doc__ or "", only="")
    kept = sizes.out / "bombs.json"
    figures = files.read_json(kept)["by_case"] if sizes.only and kept.exists() else {}
    for name in CASES:
        if name.startswith(sizes.only):
            figures[name] = judge(name)
            print(name, figures[name], flush=True)
    values: dict[str, Any] = {
        "seconds": round(sum(each["seconds"] for each in figures.values()), 1),
        "cases": len(figures),
        "bad": sum(bool(each["wrong"]) for each in figures.values()),
        "by_case": {
            name: {"seconds": each["seconds"], "wrong": each["wrong"]}
            for name, each in figures.items()
        },
    }
    keep(sizes.out, "bombs", values)


if __name__ == "__main__":
    main()
