# %% [markdown]
# # Reproduce the paper
#
# T. Borkar and L. Karam, *DeepCorrect: Correcting DNN Models against Image
# Distortions*, 2019. Here are its steps in its order, with its own settings, on
# digits. The last section does the same on CIFAR-100.

# %%
import torch

import deepcorrect as dc

torch.manual_seed(0)
model = dc.load_model("digits_cnn")
train = dc.open_dataset("digits:train", model.preprocessing)
ranked = dc.loader(
    dc.open_dataset("digits:validation", model.preprocessing).sample(60)
)
test = dc.loader(
    dc.open_dataset("digits:test", model.preprocessing).sample(200)
)
blur = "gaussian_blur:0.5,1,1.5"

# %% [markdown]
# ## Section III: the correction priority
#
# Swap one filter's clean output into the pass of the distorted image, and count
# right answers.

# %%
ranking = dc.rank(model, ranked, blur, method="swap")
baseline = dc.evaluate(model, test, blur)
for site in ranking.sites:
    best, gain = ranking.order(site)[0], float(ranking.priorities[site].max())
    print(f"{site:14} best filter {best:2}: {gain:+.3f} in accuracy")

# %% [markdown]
# ## Section III-B: ideal correction
#
# Swap in the first beta of each layer's filters, one layer at a time, under
# blur of 1 pixel:

# %%
curves = dc.ideal_correction(model, ranked, ranking)
print("beta          ", *(f"{beta:6.0%}" for beta in curves.betas))
for site, top1 in curves.top1.items():
    print(f"{site:14}", *(f"{float(value):6.3f}" for value in top1[1]))

# %% [markdown]
# ## Section IV: correction units
#
# Behind half of each layer's filters stands a bottleneck unit, initialised as
# the paper's, not as the identity. Training is by SGD with Nesterov momentum,
# half of each batch clean, and an L1 penalty. `dc.PAPER` has these settings;
# this small network needs a lower learning rate, and fewer epochs do.

# %%
adapted = dc.correct(
    model, ranking, beta=0.5, unit={"kind": "bottleneck", "start": "he"}
)
paper = dc.PAPER.model_copy(
    update={"augmentation": dc.Augmentation(), "learning_rate": 3e-3}
)
loader = dc.loader(train.sample(800), batch_size=50, shuffle=True)
history = dc.fit(adapted, loader, blur, paper, epochs=4, step_epochs=2)
corrected = dc.evaluate(adapted, test, blur)

# %% [markdown]
# ## Section V: against fine-tuning
#
# The alternative trains all weights on the same images, with a tenth of the
# learning rate.

# %%
tuned = dc.finetune(model)
dc.fit(tuned, loader, blur, paper, epochs=4, step_epochs=2, learning_rate=3e-4)
finetuned = dc.evaluate(tuned, test, blur)

print(f"{'':12}{'clean':>7}{'0.5':>7}{'1':>7}{'1.5':>7}{'mean':>7}")
for name, grid in (
    ("baseline", baseline),
    ("fine-tuned", finetuned),
    ("corrected", corrected),
):
    (curve,) = grid.curves.values()
    values = (grid.clean_top1, *curve.top1, curve.mean_top1)
    print(f"{name:12}", *(f"{value:6.3f}" for value in values))
for name, each in (("fine-tuned", tuned), ("corrected", adapted)):
    cost = dc.costs(each, model.preprocessing)
    print(f"{name} trains {cost.trainable_parameters:,} parameters")

# %% tags=["check"]
assert corrected.mean_top1 > baseline.mean_top1 + 0.1

# %% [markdown]
# ## On CIFAR-100
#
# Recipes do the same from start to end, with one report. With your own copies
# of a network and of the data:
#
# ```sh
# deepcorrect run cifar100_resnet20 --out runs/cifar100 \
#     model.weights=cifar100_resnet20.safetensors \
#     data.train='parquet:cifar100/train-*.parquet' \
#     data.test=parquet:cifar100/test.parquet
# ```
#
# `python -m benchmarks.evidence.grid` in a clone has the runs with the paper's
# own network, and [Results](../results.md) the figures beside the published
# ones.
