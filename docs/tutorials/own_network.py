# %% [markdown]
# # Your own network
#
# Any PyTorch classifier with convolutions can be corrected. It is told how its
# images are prepared, and nothing else.

# %%
import torch
from torch import nn

import deepcorrect as dc

torch.manual_seed(0)


class Residual(nn.Module):
    """Two convolutions and a sum, as in a ResNet."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return torch.relu(maps + self.body(maps))


network = nn.Sequential(
    nn.Sequential(
        nn.Conv2d(1, 24, 3, stride=2, padding=1), nn.BatchNorm2d(24), nn.ReLU()
    ),
    Residual(24),
    nn.MaxPool2d(2),
    Residual(24),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(24, 10),
)

# %% [markdown]
# `dc.Classifier` joins the network with its preprocessing: input size, mean and
# standard deviation. It takes images in [0, 1] and normalises them itself,
# because distortions happen before normalisation.

# %%
preprocessing = dc.Preprocessing(28, mean=(0.13,), std=(0.31,))
model = dc.Classifier(network, preprocessing, name="my-network")
images = dc.open_dataset("digits:train", preprocessing).sample(1500)
loader = dc.loader(images, batch_size=64, shuffle=True)
test = dc.loader(dc.open_dataset("digits:test", preprocessing).sample(300))

# %% [markdown]
# Here it is trained in the usual way, on clean digits. Yours is trained
# already.

# %%
optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
for _ in range(5):
    network.train()
    for batch, labels in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch), labels).backward()
        optimizer.step()
model.eval()
distortions = ["gaussian_blur:1,1.5", "awgn:20,40"]
before = dc.evaluate(model, test, distortions)
print(f"clean {before.clean_top1:.3f}")
print(f"mean over clean and all levels {before.mean_top1:.3f}")

# %% [markdown]
# ## Step by step
#
# `dc.correct(model, loader, distortions=...)` does everything at once ([first
# correction](first_correction.md)). Its steps are functions, too. First the
# ranking, at the sites where a residual network adds up (`stem+sums`;
# [Networks](../networks.md#sites-by-structure) lists the choices):

# %%
some = dc.loader(images.sample(50))
ranking = dc.rank(model, some, distortions, sites="stem+sums")
for site in ranking.sites:
    best = ranking.priorities[site].sort(descending=True).values[:4]
    print(site, [f"{value:+.3f}" for value in best])

# %% [markdown]
# Then units behind three quarters of each site's filters, a gate, and training:

# %%
adapted = dc.correct(model, ranking, beta=0.75, unit="inverted")
dc.fit_gate(adapted, loader, distortions, false_alarms=0.05)
objective = {"logits": 1, "activations": 4}  # the untouched network teaches
dc.fit(
    adapted,
    loader,
    distortions,
    epochs=2,
    learning_rate=1e-2,
    clean_share=0.1,
    objective=objective,
)
after = dc.evaluate(adapted, test, distortions)
print(f"clean {before.clean_top1:.3f} -> {after.clean_top1:.3f}")
print(f"mean  {before.mean_top1:.3f} -> {after.mean_top1:.3f}")
cost = dc.costs(adapted, preprocessing)
print(f"trained: {cost.trainable_parameters:,} parameters")

# %% tags=["check"]
assert before.clean_top1 > 0.8
assert after.mean_top1 > before.mean_top1 + 0.03

# %% [markdown]
# ## On the command line
#
# Put the code that builds the network into a file. `python:FILE:CALLABLE` names
# it, `--weights` its state dict:
#
# ```sh
# deepcorrect correct --model python:my_network.py:build \
#     --weights my_network.safetensors --input-size 28 --mean 0.13 --std 0.31 \
#     --data folder:pictures --out my-adapter
# ```
#
# [What you bring](../requirements.md) says what a network, a loader, a folder
# and a checkpoint must be.
