"""Segment a brain: a 3-D U-Net that tells grey matter, white matter and the rest apart.

    pip install nilearn
    python docs/examples/segment.py

The volume is the MNI 152 template that nilearn ships (Fonov 2011): a T1 picture and, for every
voxel, how much of it is grey and white matter. Training sees random patches of the front and the
back of the head, the test is a slab between them. The network is a 3-D U-Net (Cicek 2016) of
Conv3d, InstanceNorm3d and ReLU. A report shows slices: picture, truth, and what the network says.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import deepseek as ds
from deepseek import nn
from deepseek.nn import functional as F

CLASSES = ("rest", "grey matter", "white matter")
PATCH = 32
SLAB = 36  # planes held back
MARGIN = 12  # empty voxels around the head


@dataclass
class Brain:
    """A picture (depth, height, width), mean 0 and variance 1 inside the head, and its classes."""

    picture: np.ndarray
    classes: np.ndarray

    def cut(self, at: slice) -> Brain:
        """The part between two planes of the middle axis."""
        return Brain(self.picture[:, at], self.classes[:, at])


def load_brain(resolution: int) -> Brain:
    """The template at a resolution in millimetres; exits with what to do without nilearn."""
    try:
        from nilearn import datasets
    except ImportError:
        sys.exit("nilearn, which ships the brain, is missing\n  pip install nilearn")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = (
            datasets.load_mni152_template(resolution=resolution),
            datasets.load_mni152_gm_template(resolution=resolution),
            datasets.load_mni152_wm_template(resolution=resolution),
        )
    picture, grey, white = (image.get_fdata(dtype=np.float32) for image in images)
    return labelled(picture, grey, white)


def labelled(picture: np.ndarray, grey: np.ndarray, white: np.ndarray) -> Brain:
    """Each voxel's likeliest class and the normalised picture, cut to the head and a margin."""
    classes = np.stack([1 - grey - white, grey, white]).argmax(axis=0)
    head = picture > 0.1 * picture.max()
    spans = []
    for axis in range(3):
        others = tuple(i for i in range(3) if i != axis)
        found = np.flatnonzero(head.any(axis=others))
        spans.append(slice(found[0], found[-1] + 1))
    place = tuple(spans)
    mean, std = picture[head].mean(), picture[head].std()
    whole = (np.where(head, picture, 0) - mean) / std  # outside the head nothing, and no noise
    # Instance norm has no other measure than the patch: it has to see some that are mostly empty.
    edge = [(MARGIN, MARGIN)] * 3
    return Brain(
        np.pad(whole[place], edge, constant_values=whole.min()),
        np.pad(classes.astype(np.int64)[place], edge),
    )


class Block(nn.Module):
    """Twice a 3 x 3 x 3 convolution, an instance norm and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (inputs, outputs):
            layers += [
                nn.Conv3d(channels, outputs, kernel_size=3, padding=1, bias=False),
                nn.InstanceNorm3d(outputs, affine=True),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: ds.Tensor) -> ds.Tensor:
        return self.layers(x)


class UNet(nn.Module):
    """Logits (batch, 3, d, h, w) of pictures (batch, 1, d, h, w), sizes being multiples of 4.

    Two levels down by max pooling, two up by transposed convolution; what was seen on the way down
    is put beside what comes up.
    """

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.down1 = Block(1, width)
        self.down2 = Block(width, 2 * width)
        self.bottom = Block(2 * width, 4 * width)
        self.up2 = nn.ConvTranspose3d(4 * width, 2 * width, kernel_size=2, stride=2)
        self.merge2 = Block(4 * width, 2 * width)
        self.up1 = nn.ConvTranspose3d(2 * width, width, kernel_size=2, stride=2)
        self.merge1 = Block(2 * width, width)
        self.head = nn.Conv3d(width, len(CLASSES), kernel_size=1)
        self.pool = nn.MaxPool3d(2)

    def forward(self, x: ds.Tensor) -> ds.Tensor:
        fine = self.down1(x)
        middle = self.down2(self.pool(fine))
        coarse = self.bottom(self.pool(middle))
        middle = self.merge2(ds.concat([self.up2(coarse), middle], axis=1))
        fine = self.merge1(ds.concat([self.up1(middle), fine], axis=1))
        return self.head(fine)


def patches(
    brains: Sequence[Brain], count: int, batch: int, draw: np.random.Generator
) -> Iterator[tuple[ds.Tensor, ds.Tensor]]:
    """Batches of random patches, half of them mirrored."""
    for _ in range(count):
        pictures, classes = [], []
        for _ in range(batch):
            brain = brains[draw.integers(len(brains))]
            starts = [int(draw.integers(0, n - PATCH + 1)) for n in brain.picture.shape]
            place = tuple(slice(s, s + PATCH) for s in starts)
            step = -1 if draw.random() < 0.5 else 1
            pictures.append(brain.picture[place][::step])
            classes.append(brain.classes[place][::step])
        yield ds.asarray(np.stack(pictures)[:, None]), ds.asarray(np.stack(classes))


def train(model: UNet, brains: Sequence[Brain], steps: int, batch: int) -> list[float]:
    """Train; the loss of each step."""
    optimizer = ds.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = ds.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps, eta_min=1e-4)

    @ds.jit
    def step(x: ds.Tensor, y: ds.Tensor) -> ds.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    losses = []
    bar = ds.progress(patches(brains, steps, batch, np.random.default_rng(0)), "train", steps)
    for x, y in bar:
        loss = step(x, y)
        schedule.step()
        losses.append(loss.item())
        bar.set_postfix(loss=loss)
    return losses


def predict(model: UNet, picture: np.ndarray) -> np.ndarray:
    """The class of each voxel of a whole picture: patches overlap by half, their shares add up.

    A patch in which nothing differs is left out: there is nothing to normalise by, and it is rest.
    """
    shares = ds.jit(lambda x: ds.softmax(model(x), dim=1))
    out = np.zeros((len(CLASSES), *picture.shape), np.float32)
    starts = [[*range(0, n - PATCH, PATCH // 2), n - PATCH] for n in picture.shape]
    model.eval()
    with ds.no_grad():
        for corner in itertools.product(*starts):
            place = tuple(slice(at, at + PATCH) for at in corner)
            patch = np.ascontiguousarray(picture[place])[None, None]
            if np.ptp(patch) > 0:
                out[:, *place] += shares(ds.asarray(patch)).numpy()[0]
    return out.argmax(axis=0)


def dice(found: np.ndarray, wanted: np.ndarray) -> list[float]:
    """For each class twice the overlap over the sum of both (Dice 1945)."""
    return [
        float(
            2
            * ((found == c) & (wanted == c)).sum()
            / max(1, (found == c).sum() + (wanted == c).sum())
        )
        for c in range(len(CLASSES))
    ]


def write_report(path: Path, brain: Brain, found: np.ndarray, scores: list[float]) -> None:
    """Three slices of the held-back part, as one picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    depth, height, _ = brain.picture.shape
    slices = [height // 5, height // 2, 4 * height // 5]
    figure, axes = pyplot.subplots(len(slices), 3, figsize=(8, 8.6), facecolor="white")
    for row, at in zip(axes, slices, strict=True):
        shown = (brain.picture[:, at], brain.classes[:, at], found[:, at])
        for axis, image, cmap in zip(row, shown, ("gray", "viridis", "viridis"), strict=True):
            top = None if cmap == "gray" else len(CLASSES) - 1
            axis.imshow(np.rot90(image), cmap=cmap, vmax=top)
            axis.axis("off")
    for axis, title in zip(axes[0], ("held-back picture", "truth", "network"), strict=True):
        axis.set_title(title)
    named = ", ".join(f"{n} {s:.3f}" for n, s in zip(CLASSES, scores, strict=True))
    figure.suptitle(f"Dice: {named}", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="Segment the MNI brain with a 3-D U-Net.")
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--resolution", type=int, default=2, help="millimetres a voxel")
    parser.add_argument("--report", type=Path, default=Path("segment.png"))
    args = parser.parse_args()
    ds.manual_seed(0)
    brain = load_brain(args.resolution)
    first = (brain.picture.shape[1] - SLAB) // 2
    last = first + SLAB
    if first < PATCH:
        sys.exit(f"{args.resolution} mm are too coarse for patches of {PATCH} voxels: try 2")
    held = brain.cut(slice(first, last))
    others = [brain.cut(slice(0, first)), brain.cut(slice(last, None))]
    model = UNet()
    started = time.perf_counter()
    losses = train(model, others, args.steps, args.batch)
    seconds = time.perf_counter() - started
    print(f"{args.steps} steps in {seconds:.0f} s, loss {losses[0]:.3f} to {losses[-1]:.3f}")
    started = time.perf_counter()
    found = predict(model, held.picture)
    print(f"{held.picture.size:,} held-back voxels in {time.perf_counter() - started:.1f} s")
    scores = dice(found, held.classes)
    for name, score in zip(CLASSES, scores, strict=True):
        print(f"Dice of {name}: {score:.3f}")
    write_report(args.report, held, found, scores)
    print(f"report: {args.report}")


if __name__ == "__main__":
    main()
