"""How fast the corruptions are, against imagecorruptions, side by side in one process.

    DEEPCORRECT_SHARED=... python -m benchmarks.distortions.speed [--rounds 5]

Batches of 32 images of 224 pixels. The peer is imagecorruptions 1.1.2, its newest release, and for
glass blur a loop that numba compiles (see `compiled.py`), which is far faster than the release's
own; `glass_blur_as_released` has that one, and is not in the means. The peer takes and gives 8-bit
arrays image by image, ours takes and gives floats by the batch; each is timed in its own form. The
peer uses one core: its time with
every core at work on images of its own, as in a loader's workers, is measured too. Processor time
is what all threads of ours, or the peer's one, spend together: it says what the work costs, also
where others keep the cores busy. Rounds are interleaved; medians over rounds and severities.
Memory is what a process of its own, which has distorted one image before, grows by during a batch,
in batches. Written to speed.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.distortions import compiled
from benchmarks.distortions.subjects import (
    BATCH,
    CORRUPTIONS,
    RESULTS,
    as_bytes,
    network_and_images,
    theirs,
)
from deepcorrect.distortions import Distortion
from deepcorrect.runtime import files, seeds_for

SEVERITIES = (1, 3, 5)
PEERS = ("peer", "peer_workers", "peer_processor")
TIMED = ("ours", "ours_processor", *PEERS)
AS_RELEASED = "glass_blur_as_released"
SLOW_PEER = {AS_RELEASED: 4}  # so many images instead of 32: half a second each


def peer_image(job: tuple[np.ndarray, str, int]) -> None:
    image, name, severity = job
    if name == "glass_blur":
        compiled.glass_blur(image, severity)
    else:
        theirs(image, name.removesuffix("_as_released"), severity)


def measure(rounds: int) -> dict[str, Any]:
    _, images, _ = network_and_images(BATCH)
    pixels = as_bytes(images)
    found: dict[str, dict[str, float]] = {}
    with multiprocessing.Pool(torch.get_num_threads()) as pool:
        for name in (*CORRUPTIONS, AS_RELEASED):
            distortion = Distortion(name.removesuffix("_as_released"))
            times: dict[str, list[float]] = {who: [] for who in TIMED}
            count = SLOW_PEER.get(name, BATCH)
            peer_image((pixels[0], name, 1))  # compiled
            pool.map(peer_image, [(pixels[0], name, 1)] * 2 * torch.get_num_threads(), chunksize=1)
            for _ in range(rounds):
                for severity in SEVERITIES:
                    seeds = seeds_for(name, severity, first=0, count=BATCH)
                    jobs = [(image, name, severity) for image in pixels[:count]]
                    distortion(images, severity, seeds)  # tables made, caches warm
                    started, spent = time.perf_counter(), time.process_time()
                    distortion(images, severity, seeds)
                    times["ours"].append((time.perf_counter() - started) / BATCH)
                    times["ours_processor"].append((time.process_time() - spent) / BATCH)
                    started, spent = time.perf_counter(), time.process_time()
                    for job in jobs:
                        peer_image(job)
                    times["peer"].append((time.perf_counter() - started) / count)
                    times["peer_processor"].append((time.process_time() - spent) / count)
                    started = time.perf_counter()
                    pool.map(peer_image, jobs, chunksize=1)
                    times["peer_workers"].append((time.perf_counter() - started) / count)
            typical = {who: 1000 * statistics.median(each) for who, each in times.items()}
            found[name] = {f"{who}_milliseconds": value for who, value in typical.items()}
            for peer in PEERS:
                own = "ours_processor" if peer == "peer_processor" else "ours"
                ratios = [p / o for p, o in zip(times[peer], times[own], strict=True)]
                found[name][f"{peer}_over_ours"] = statistics.median(ratios)
            print(name, {k: round(v, 2) for k, v in found[name].items()}, flush=True)
    return {
        "images": BATCH,
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "corruptions": found,
        "geometric_mean": {
            peer: statistics.geometric_mean(
                found[name][f"{peer}_over_ours"] for name in CORRUPTIONS
            )
            for peer in PEERS
        },
    }


def memory(name: str) -> float:
    """Growth of this process's peak memory while a batch is distorted, in batches (Linux)."""
    images = torch.rand(BATCH, 3, 224, 224)
    for severity in SEVERITIES:  # tables made, libraries loaded
        Distortion(name)(images[:2], severity, seeds_for(name, first=0, count=2))
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is held now
    before = _held("VmRSS")
    Distortion(name)(images, 3, seeds_for(name, first=0, count=BATCH))
    return (_held("VmHWM") - before) / (images.numel() * 4)


def _held(which: str) -> int:
    """Bytes of this process's memory: VmRSS now, VmHWM at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(which)).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed and memory of the corruptions.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-of", help="print one corruption's memory, and end")
    options = parser.parse_args()
    if options.memory_of:
        print(json.dumps(memory(options.memory_of)))
        return
    report = measure(options.rounds)
    for name in CORRUPTIONS:
        one = report["corruptions"][name]
        command = [sys.executable, "-m", "benchmarks.distortions.speed", "--memory-of", name]
        said = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
        one["memory_in_batches"] = json.loads(said.splitlines()[-1])
    files.write_json(RESULTS / "speed.json", report)
    print(report["geometric_mean"], f"written: {RESULTS / 'speed.json'}")


if __name__ == "__main__":
    main()
