# %% [markdown]
# # Read a ranking
#
# A ranking gives every filter a **correction priority**: how much of the answer
# is restored if this filter sees the clean image while everything else sees the
# distorted one.

# %%
import matplotlib.pyplot as plt
import torch

import deepcorrect as dc

torch.manual_seed(0)
model = dc.load_model("digits_cnn")
images = dc.open_dataset("digits:validation", model.preprocessing)
loader = dc.loader(images.sample(60))
distortions = ["gaussian_blur:1,1.5", "awgn:40,60"]
ranking = dc.rank(model, loader, distortions)
print(
    ranking.method,
    ranking.target,
    f"{ranking.seconds:.1f} s for",
    ranking.images,
    "images",
)
print({site: len(ranking.priorities[site]) for site in ranking.sites})

# %% [markdown]
# ## Which filters cost the accuracy?
#
# Few of them: the priorities fall steeply, and some filters would even do harm.

# %%
figure, axes = plt.subplots(
    1, len(ranking.sites), figsize=(7, 2.6), sharey=True
)
for site, axis in zip(ranking.sites, axes, strict=True):
    axis.bar(
        range(len(ranking.order(site))),
        ranking.priorities[site][ranking.order(site)],
    )
    axis.set(title=site, xlabel="filters in order")
axes[0].set_ylabel("correction priority")
figure.tight_layout()

# %% [markdown]
# The order depends on the distortion. `by_level` has a row of priorities for
# each level: here two of blur, then two of noise.

# %%
site = ranking.sites[1]
blur, noise = ranking.by_level[site].split(2)
for name, rows in (
    ("blur", blur),
    ("noise", noise),
    ("both", ranking.by_level[site]),
):
    print(f"{name:6}", rows.mean(0).argsort(descending=True)[:8].tolist())

# %% [markdown]
# ## Is it right?
#
# The estimate (`conductance`, a few gradient passes) can be compared with the
# paper's exact swap, which counts right answers filter by filter:

# %%
exact = dc.rank(model, loader, distortions, method="swap")
print(f"swap took {exact.seconds / ranking.seconds:.0f} times as long")
for site in ranking.sites:
    half = len(ranking.order(site)) // 2
    shared = set(ranking.order(site)[:half]) & set(exact.order(site)[:half])
    print(f"{site:14} both choose {len(shared) / half:.0%} of the first half")

# %% [markdown]
# What decides is **ideal correction**: swap the clean outputs of the first
# filters in, all together, and measure accuracy on other images. The larger the
# area under this curve, the better the ranking chose.

# %%
others = dc.loader(images.sample(60, seed=1))
random = dc.rank(model, loader, distortions, method="random")
figure, axis = plt.subplots(figsize=(6, 3.2))
for name, each in (
    ("conductance", ranking),
    ("swap", exact),
    ("random", random),
):
    curves = dc.ideal_correction(model, others, each)
    top1 = curves.top1[ranking.sites[1]].mean(0)
    axis.plot(
        curves.betas, top1, "o-", label=f"{name}, mean {float(top1.mean()):.3f}"
    )
axis.set(
    xlabel="share of the site's filters, beta",
    ylabel="top-1",
    title=ranking.sites[1],
)
axis.legend()
figure.tight_layout()

# %% tags=["check"]
means = [
    float(
        dc.ideal_correction(model, others, each).top1[ranking.sites[1]].mean()
    )
    for each in (ranking, random)
]
assert means[0] > means[1]

# %% [markdown]
# `Ranking.top` turns a ranking into the filters to correct, and `save` keeps it
# with heat maps for `deepcorrect rank --compare A B`:

# %%
print({site: filters[:5] for site, filters in ranking.top(beta=0.25).items()})
ranking.save("my-ranking")
print(dc.load_ranking("my-ranking").order(site) == ranking.order(site))

# %% [markdown]
# [Choose a ranking](../ranking.md) compares all methods on two networks, with
# what each costs.
