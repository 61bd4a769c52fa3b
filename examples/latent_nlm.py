"""A Neural Langevin Machine in the latent space of a small autoencoder.

A machine has one neuron for each number of its state, so its cost grows with the square of the
number of pixels, and it has to learn by itself which pixels go together. An autoencoder does that
part well: it turns an image into a few latent numbers and back. The machine then learns the law of
these numbers, and what it dreams up is decoded to images (the paper's "AE-PCD" experiment).

    python examples/latent_nlm.py                      # scikit-learn's 8x8 digits
    DRIFTWELL_DATA=... python examples/latent_nlm.py   # MNIST, read from $DRIFTWELL_DATA/mnist

It takes less than three minutes on one core, prints the two-sample table and writes
latent_nlm.png.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace

import torch
from torch import Tensor, nn

import driftwell as dw
from driftwell.data import ImageSet, load
from driftwell.measures import format_two_sample_table, two_sample_table
from driftwell.models.langevin.generation import generate
from driftwell.models.langevin.presets import Recipe, preset
from driftwell.models.langevin.trainer import MachineTrainer

# ---- 1. The autoencoder: pixels -> a few latent numbers -> pixels -----------------------------
# As in the paper's code: one hidden layer each way, the encoder gives a mean and a log-variance,
# training adds that much noise to the latents, and the loss is the squared error alone.


class Autoencoder(nn.Module):
    def __init__(self, pixels: int, hidden: int, latents: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(pixels, hidden), nn.ReLU())
        self.mean = nn.Linear(hidden, latents)
        self.log_variance = nn.Linear(hidden, latents)
        self.decoder = nn.Sequential(
            nn.Linear(latents, hidden), nn.ReLU(), nn.Linear(hidden, pixels), nn.Tanh()
        )

    def encode(self, images: Tensor) -> Tensor:
        return self.mean(self.encoder(images))

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.encoder(images)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        noise = torch.randn_like(mean)  # a script may use torch's random state; the library won't
        return self.decoder(mean + torch.exp(0.5 * log_variance) * noise)


def train_autoencoder(images: Tensor, hidden: int, latents: int, epochs: int) -> Autoencoder:
    torch.manual_seed(0)
    model = Autoencoder(images.shape[1], hidden, latents)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(128):
            loss = (model(images[rows]) - images[rows]).square().sum() / len(rows)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.requires_grad_(False)


# ---- 2. The machine: the law of the latent numbers -------------------------------------------
# The paper trains on the latents as they come. Their scale is an accident of the autoencoder,
# though, and a machine at temperature 1 cares about scale: its thermal noise has a standard
# deviation of about 1, and its neurons saturate at |x| ~ 2. So each latent is brought to mean 0 and
# standard deviation SPREAD first, and back before decoding. --spread 2.3 is about the scale the
# digits' latents come with: the table shows what that costs.

SPREAD = 1.2


def train_machine(latents: Tensor, updates: int) -> tuple[dw.NeuralLangevinMachine, Recipe]:
    recipe = replace(
        preset("yu2025-pcd"),  # persistent contrastive divergence, ten Langevin steps an update
        learning_rate=1e-3,
        chains=1000,
        batch=min(1000, len(latents)),
        updates=updates,
        sampler="langevin",  # Leimkuhler-Matthews: a step of 0.05 is as exact as Euler's 0.01
        step_size=0.05,
        sample_steps=5000,
    )
    trainer = MachineTrainer(recipe, latents, seed=0)
    for index in range(recipe.updates):
        told = trainer.update(index)
        if (index + 1) % (recipe.updates // 5) == 0:
            print(f"  update {index + 1:5}  gradient {told['gradient']:.2e}", end="")
            print(f"  E/N data {told['energy_data']:.3f}  model {told['energy_model']:.3f}")
    return trainer.machine, recipe


# ---- 3. Data, in [-1, 1], where the autoencoder's tanh lives ----------------------------------


def data() -> tuple[ImageSet, ImageSet]:
    if os.environ.get("DRIFTWELL_DATA"):
        return load("mnist", "train").take(10_000), load("mnist", "test").take(1000)
    return load("digits", "train"), load("digits", "test")


def symmetric(images: ImageSet) -> Tensor:
    return 2.0 * images.flat() - 1.0


# ---- 4. A picture: what was dreamt up, over real images ---------------------------------------


def draw(rows: dict[str, Tensor], side: tuple[int, int], path: str) -> None:
    from matplotlib.figure import Figure

    columns = 16
    figure = Figure(figsize=(columns * 0.55, len(rows) * 1.45), layout="constrained")
    axes = figure.subplots(len(rows), 1)
    for axis, (name, images) in zip(axes, rows.items(), strict=True):
        height, width = side
        tiles = images[: 2 * columns].reshape(2, columns, height, width)
        strip = tiles.permute(0, 2, 1, 3).reshape(2 * height, columns * width)
        axis.imshow(strip, cmap="gray", vmin=-1, vmax=1)
        axis.set_title(name, loc="left", fontsize=9)
        axis.axis("off")
    figure.savefig(path, dpi=150)


def main() -> None:
    arguments = argparse.ArgumentParser(description="A machine in an autoencoder's latent space.")
    arguments.add_argument("--out", default="latent_nlm.png", help="where the picture goes")
    arguments.add_argument("--updates", type=int, default=5000, help="of the machine")
    arguments.add_argument("--spread", type=float, default=SPREAD, help="of the scaled latents")
    chosen = arguments.parse_args()
    began = time.perf_counter()

    train_set, test_set = data()
    train, test = symmetric(train_set), symmetric(test_set)
    large = train.shape[1] > 64
    print(f"{train_set}, held out {len(test)}")

    print("autoencoder ...")
    autoencoder = train_autoencoder(
        train,
        hidden=400 if large else 128,
        latents=20,
        epochs=20 if large else 150,
    )
    raw = autoencoder.encode(train)
    centre, scale = raw.mean(dim=0), raw.std(dim=0) / chosen.spread
    latents = (raw - centre) / scale
    error = (autoencoder.decoder(raw) - train).square().mean()
    print(f"  {latents.shape[1]} latents, squared error a pixel {error:.4f}")

    print("machine on the latents ...")
    machine, recipe = train_machine(latents, chosen.updates)

    # From noise, by the recipe's own sampler; then back through the scaling and the decoder.
    states = generate(machine, recipe, len(test), seed=1)
    made = autoencoder.decoder(states * scale + centre)

    # The floors. "real": as many real images, what a perfect model scores. "gaussian": the law of
    # the data's mean and covariance. No latent model can beat the decoder it speaks through: the
    # second table puts decoded held-out images in the generated images' place.
    print("\ngenerated from noise, against held-out images")
    print(format_two_sample_table(two_sample_table(train, test, made, seed=0)))
    half = len(test) // 2
    decoded = autoencoder.decoder(autoencoder.encode(test[:half]))
    print("\nreal images, passed through the autoencoder (the best a latent model can do)")
    print(format_two_sample_table(two_sample_table(train, test[half:], decoded, seed=0)))

    # A Gaussian in latent space is the fair opponent: same decoder, no machine.
    gaussian = (
        latents.mean(dim=0)
        + torch.randn(states.shape) @ torch.linalg.cholesky(torch.cov(latents.T)).T
    )
    guessed = autoencoder.decoder(gaussian * scale + centre)
    print("\na Gaussian in the same latent space, decoded")
    print(format_two_sample_table(two_sample_table(train, test, guessed, seed=0)))

    side = (train_set.height, train_set.width)
    rows = {"generated by the machine": made, "a Gaussian of the latents": guessed, "real": test}
    draw(rows, side, chosen.out)
    print(f"\nwrote {chosen.out} after {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
