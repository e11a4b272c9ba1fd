# %% [markdown]
# # Deploy to ONNX and 8 bits
#
# A corrected network becomes one file that runs without DeepCorrect: units are
# folded into the layers around them, and a gate goes along.

# %%
import json
from pathlib import Path

import numpy as np
import onnxruntime
import torch

import deepcorrect as dc

torch.manual_seed(0)
model = dc.load_model("digits_cnn")
train = dc.open_dataset("digits:train", model.preprocessing)
test = dc.loader(
    dc.open_dataset("digits:test", model.preprocessing).sample(150)
)
distortions = ["gaussian_blur:1.5", "awgn:60"]
loader = dc.loader(train.sample(500), shuffle=True)
adapted = dc.correct(model, loader, distortions=distortions, epochs=8)

# %% [markdown]
# ## One ONNX file
#
# `dc.export` checks the file's answers against the network's before it keeps
# it.

# %%
exported = dc.export(adapted, "corrected.onnx")
print(f"{exported.path}: {exported.bytes / 1000:.0f} kB")
print(
    f"differs by {exported.largest_difference:.0e} on {exported.images} images"
)

# %% [markdown]
# It reads images in [0, 1] of any batch size, and carries the preprocessing and
# the labels:

# %%
session = onnxruntime.InferenceSession("corrected.onnx")
(given,) = session.get_inputs()
print(given.name, given.shape, given.type)
for key, text in session.get_modelmeta().custom_metadata_map.items():
    print(f"{key}: {text[:80]}")

# %%
images, labels = next(iter(test))
noisy = dc.Distortion("awgn")(images, 60, torch.Generator().manual_seed(0))
logits = np.asarray(session.run(None, {given.name: noisy.numpy()})[0])
with torch.no_grad():
    difference = np.abs(logits - adapted(noisy).numpy()).max()
    print(f"largest difference from PyTorch: {difference:.0e}")
    print(
        "baseline right: ",
        float((model(noisy).argmax(1) == labels).float().mean()),
    )
print("corrected right:", float((logits.argmax(1) == labels.numpy()).mean()))

# %% tags=["check"]
with torch.no_grad():
    assert np.abs(logits - adapted(noisy).numpy()).max() < 1e-3
    untouched = model(noisy).argmax(1).numpy()
assert (logits.argmax(1) == labels.numpy()).mean() > (
    untouched == labels.numpy()
).mean()

# %% [markdown]
# ## Eight bits
#
# `dc.quantize` calibrates on clean and distorted images, and measures all four
# files: the network and the corrected one, in float32 and in eight bits.

# %%
calibration = dc.loader(train.sample(60, seed=1))
quantized = dc.quantize(
    adapted, "corrected-int8.onnx", calibration, test, distortions
)

# %% [markdown]
# The table is kept beside the file, for whoever deploys it ([Files and
# results](../files.md)):

# %%
table = json.loads(Path("corrected-int8.accuracy.json").read_text())
for name, system in table["systems"].items():
    levels = [
        top1 for each in system["distortions"].values() for top1 in each["top1"]
    ]
    clean = next(iter(system["distortions"].values()))["clean_top1"]
    size = f"{system['bytes'] / 1000:.0f} kB"
    top1 = f"clean {clean:.3f}   distorted {np.mean(levels):.3f}"
    print(f"{name:20}{size:>8}   {top1}")

# %% [markdown]
# The same as commands:
#
# ```sh
# deepcorrect export --model M --adapter my-adapter --out corrected.onnx
# deepcorrect export --model M --adapter my-adapter --out corrected-int8.onnx \
#     --int8 --calibration folder:some
# ```
#
# [Deploy](../deployment.md) has measured times of each kind of correction in
# PyTorch and ONNX Runtime.
