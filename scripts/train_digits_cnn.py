"""Trains the demo's network on clean digits and writes the weights that the package ships.

    python scripts/train_digits_cnn.py [OUT]

It sees `digits:train` alone, keeps the epoch that is best on `digits:validation`, and never reads
`digits:test`. About a minute on two cores.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import deepcorrect as dc
from deepcorrect.models import load_model
from deepcorrect.runtime import files

SHIPPED = Path(__file__).parent.parent / "src/deepcorrect/models/digits_cnn.safetensors"


def main() -> None:
    """Trains, then writes to the path in the first argument or over the shipped file."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else SHIPPED
    torch.manual_seed(0)
    model = load_model("digits_cnn", "random")
    images = dc.open_dataset("digits:train", model.preprocessing)
    held_out = dc.open_dataset("digits:validation", model.preprocessing)
    history = dc.fit(
        model,
        dc.loader(images, 64, shuffle=True),
        distortions=["gaussian_blur:0"],  # level 0 is the identity: every image stays clean
        validation=dc.loader(held_out),
        epochs=20,
        objective={"labels": 1.0},
        learning_rate=5e-3,
        clean_share=1.0,
        augmentation={"rotation": 10, "shift": 0.08, "zoom": 0.1},
        precision="float32",
    )
    files.write_tensors(out, model.network.state_dict())
    best = history.epochs[history.best]
    print(f"wrote {out}: validation top-1 {best.score:.4f} at epoch {best.number + 1}")


if __name__ == "__main__":
    main()
