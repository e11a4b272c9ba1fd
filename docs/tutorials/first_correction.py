# %% [markdown]
# # Your first correction
#
# A network reads clean digits well and noisy ones badly. We measure that,
# correct it without touching its weights, and switch the correction on and off.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import deepcorrect as dc

torch.manual_seed(0)
model = dc.load_model("digits_cnn")  # trained on clean digits, 28 x 28 px
train = dc.open_dataset("digits:train", model.preprocessing).sample(500)
test = dc.loader(
    dc.open_dataset("digits:test", model.preprocessing).sample(200)
)

# %% [markdown]
# ## What do distortions cost?
#
# A distortion has a kind and a level. Levels of blur are standard deviations in
# pixels, levels of noise are standard deviations on the scale of 0 to 255.

# %%
distortions = ["gaussian_blur:0.5,1,1.5,2", "awgn:20,40,60"]
before = dc.evaluate(model, test, distortions)
print(f"clean {before.clean_top1:.3f}")
for name, curve in before.curves.items():
    levels = curve.distortion.levels
    print(
        name,
        dict(zip(levels, [f"{top1:.3f}" for top1 in curve.top1], strict=True)),
    )

# %% [markdown]
# The pictures show why: a person still reads these digits.

# %%
images, labels = next(iter(test))
some = torch.linspace(0, len(images) - 1, 6).long()
shown = [("clean", images[some])]
for name, level in (("gaussian_blur", 1.5), ("awgn", 60)):
    noise = torch.Generator().manual_seed(0)
    shown.append(
        (f"{name} {level}", dc.Distortion(name)(images[some], level, noise))
    )
figure, rows = plt.subplots(3, 6, figsize=(7, 3.6))
for (title, pictures), row in zip(shown, rows, strict=True):
    answers = model(pictures).argmax(1).tolist()
    for picture, answer, label, axis in zip(
        pictures, answers, labels[some].tolist(), row, strict=True
    ):
        colour = "green" if answer == label else "red"
        axis.imshow(picture[0].clamp(0, 1), cmap="gray")
        axis.set_title(f"{label} → {answer}", color=colour, size=9)
        axis.axis("off")
    place = {"transform": row[0].transAxes, "ha": "right", "va": "center"}
    row[0].text(-0.15, 0.5, title, **place, size=9)
figure.subplots_adjust(left=0.2, hspace=0.5)

# %% [markdown]
# ## Correct it
#
# `dc.correct` ranks the network's filters by how much accuracy each would
# restore, gives the worst ones weights of their own, fits a gate that leaves
# clean images to the network, and trains on four fifths of the images. It needs
# no labels, as the network on the clean image is the teacher.

# %%
adapted = dc.correct(
    model, dc.loader(train, shuffle=True), distortions=distortions, epochs=6
)
after = dc.evaluate(adapted, test, distortions)
print(f"clean {before.clean_top1:.3f} -> {after.clean_top1:.3f}")
for name in before.curves:
    means = (grid.curves[name].mean_top1 for grid in (before, after))
    print(f"{name:14} mean", " -> ".join(f"{mean:.3f}" for mean in means))

# %% tags=["check"]
assert after.mean_top1 > before.mean_top1 + 0.15
assert after.clean_top1 > before.clean_top1 - 0.02

# %%
figure, axes = plt.subplots(1, 2, figsize=(7, 2.8), sharey=True)
for (name, curve), axis in zip(before.curves.items(), axes, strict=True):
    levels = [0, *curve.distortion.levels]
    axis.plot(levels, [before.clean_top1, *curve.top1], "o-", label="baseline")
    axis.plot(
        levels,
        [after.clean_top1, *after.curves[name].top1],
        "o-",
        label="corrected",
    )
    axis.set(xlabel=f"{name}, level", ylim=(0, 1.02))
axes[0].set_ylabel("top-1 accuracy")
axes[0].legend()
figure.tight_layout()

# %% [markdown]
# ## Keep it, and switch it off
#
# An adapter is two files and a model card. The network itself is never changed:
# with the adapter disabled, its answers are those of the untouched network, bit
# for bit.

# %%
adapted.save_pretrained("my-adapter")
for file in sorted(Path("my-adapter").iterdir()):
    print(f"{file.name:28} {file.stat().st_size / 1000:8.1f} kB")

again = dc.load_adapter(model, "my-adapter")
with torch.no_grad(), again.disable_adapter():
    print(
        "bit-identical when disabled:",
        torch.equal(again(images), model(images)),
    )

# %% tags=["check"]
with torch.no_grad(), again.disable_adapter():
    assert torch.equal(again(images), model(images))

# %% [markdown]
# Next: [your own network](own_network.md), or the same as a command:
#
# ```sh
# deepcorrect correct --model digits_cnn --data digits:train \
#     --out my-adapter --explain
# ```
