# %% [markdown]
# # Which unit for which budget
#
# A correction can be weights of its own for the ranked filters, which cost
# nothing to run; a unit behind them, which costs parameters and multiply-adds;
# or both. We train several on the same digits and compare.

# %%
import matplotlib.pyplot as plt
import torch

import deepcorrect as dc

torch.manual_seed(0)
model = dc.load_model("digits_cnn")
digits = dc.open_dataset("digits:train", model.preprocessing)
train = dc.loader(digits.sample(400), 64, shuffle=True)
test = dc.loader(
    dc.open_dataset("digits:test", model.preprocessing).sample(200)
)
distortions = ["gaussian_blur:1,1.5,2", "awgn:30,60"]
ranking = dc.rank(
    model, dc.loader(digits.sample(60)), distortions, sites="convolutions"
)
base = dc.costs(model, model.preprocessing)
images, _ = next(iter(test))

# %%
choices = {
    "weights, 25 %": ("weights", 0.25),
    "dense": ("dense", 0.5),
    "bottleneck": ("bottleneck", 0.5),
    "weights+dense": ("weights+dense", 0.5),
}
results = {}
for name, (unit, beta) in choices.items():
    adapted = dc.correct(model, ranking, beta=beta, unit=unit)
    rate = 2e-2 if "weights" in unit else 1e-2
    objective = {"logits": 1, "activations": 4}
    dc.fit(
        adapted,
        train,
        distortions,
        epochs=3,
        learning_rate=rate,
        objective=objective,
    )
    grid = dc.evaluate(adapted, test, distortions)
    latency = dc.measure_latency(adapted, images[:1])
    results[name] = (
        dc.costs(adapted, model.preprocessing),
        grid,
        latency.ratio,
    )

# %% [markdown]
# What each gains, and what it costs beyond the network. The time is of one
# fused network for one image, as a multiple of the baseline's, measured
# alternately:

# %%
baseline = dc.evaluate(model, test, distortions)
print(
    f"{'':16}{'mean top-1':>11}{'trained':>10}{'multiply-adds':>15}{'time':>7}"
)
print(f"{'baseline':16}{baseline.mean_top1:11.3f}{0:10,}{0:+15.0%}{1:7.2f}")
for name, (cost, grid, slower) in results.items():
    added = cost.multiply_adds / base.multiply_adds - 1
    print(
        f"{name:16}{grid.mean_top1:11.3f}{cost.trainable_parameters:10,}{added:+15.0%}{slower:7.2f}"
    )

# %%
figure, axis = plt.subplots(figsize=(6.5, 3.4))
for name, (_, grid, slower) in results.items():
    axis.plot(slower, grid.mean_top1, "o")
    axis.annotate(
        name,
        (slower, grid.mean_top1),
        xytext=(5, 4),
        textcoords="offset points",
        size=8,
    )
axis.set(xlabel="time, as a multiple of the baseline's", ylabel="mean top-1")
axis.margins(x=0.25, y=0.15)

# %% tags=["check"]
assert all(
    grid.mean_top1 > baseline.mean_top1 + 0.05
    for _, grid, _ in results.values()
)
assert results["weights, 25 %"][0].multiply_adds == base.multiply_adds

# %% [markdown]
# So the rule of thumb is: weights first, as they cost nothing; a unit beside
# them if you can pay for it.
#
# ## A budget instead of a choice
#
# With a budget, the priorities decide how many filters of each site are
# corrected:

# %%
small = dc.correct(
    model, ranking, budget={"parameters": 0.1}, unit="bottleneck"
)
for site in small.config.sites:
    print(site)
share = (
    dc.costs(small, model.preprocessing).trainable_parameters / base.parameters
)
print(f"{share:.1%} of the network's parameters")

# %% [markdown]
# A budget of time, `budget={"latency": 0.1}`, measures the kinds on this
# machine and chooses within it, in PyTorch or ONNX Runtime:
# [Deploy](../deployment.md#a-budget-of-time).
