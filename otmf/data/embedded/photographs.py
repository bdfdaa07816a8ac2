"""Real pictures that scikit-learn carries: handwritten digits, and crops of its two sample photographs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from otmf.data.embedded import canvas

PHOTO_REGIONS = {
    # class: (photograph, boxes (left, top, right, bottom) to train on, boxes to test on); a box to test on lies in the
    # middle of its region and shares no pixel with one to train on
    "roof": ("china", ((96, 62, 176, 134), (228, 62, 320, 134), (66, 244, 176, 286), (228, 244, 348, 286)),
             ((180, 62, 224, 134), (180, 244, 224, 286))),
    "gallery": ("china", ((98, 184, 180, 236), (232, 184, 318, 236), (86, 286, 180, 344), (232, 286, 338, 344)),
                ((184, 184, 228, 236), (184, 286, 228, 344))),
    "pine": ("china", ((566, 150, 640, 250), (566, 310, 640, 427)), ((566, 254, 640, 306),)),
    "shrubs": ("china", ((340, 330, 420, 427), (476, 310, 556, 427)), ((424, 320, 472, 427),)),
    "bush": ("china", ((0, 350, 80, 427), (128, 350, 206, 427)), ((84, 350, 124, 427),)),
    "lake": ("china", ((356, 196, 426, 290), (476, 196, 546, 272)), ((430, 196, 472, 280),)),
    "sky": ("china", ((340, 0, 460, 120), (520, 0, 640, 120)), ((464, 0, 516, 120),)),
    "petals": ("flower", ((196, 130, 280, 310), (332, 130, 416, 310)), ((284, 130, 328, 310),)),
    "rim": ("flower", ((200, 76, 270, 140), (350, 76, 416, 140), (200, 300, 270, 364), (350, 300, 416, 364)),
            ((274, 66, 346, 112), (274, 330, 346, 376))),
    "leaf": ("flower", ((0, 0, 160, 190), (0, 240, 160, 427), (460, 0, 640, 190), (460, 240, 640, 427)),
             ((0, 194, 160, 236), (460, 194, 640, 236))),
}  # fmt: skip


def digits(rng: np.random.Generator) -> canvas.Images:
    """Handwritten digits, 8 by 8 pixels enlarged, 1,797 in all."""
    from PIL import Image
    from sklearn.datasets import load_digits

    found = load_digits()
    order = rng.permutation(len(found.target))
    small = (found.images[order] * (255 / 16)).astype(np.uint8)
    large = np.stack(
        [np.asarray(Image.fromarray(p).resize((canvas.SIZE, canvas.SIZE), Image.Resampling.BICUBIC)) for p in small]
    )
    x, y = np.repeat(large[..., None], 3, -1), found.target[order].astype(np.int64)
    return canvas.Images(x[:1400], y[:1400], x[1400:], y[1400:], tuple("0123456789"))


def photos(rng: np.random.Generator) -> canvas.Images:
    """Patches of two photographs, ten things to tell apart; tested on pixels no training patch touches."""
    from sklearn.datasets import load_sample_image

    photographs = {name: load_sample_image(f"{name}.jpg") for name in ("china", "flower")}

    def paint(rng: np.random.Generator, labels: NDArray[np.int64], training: bool) -> canvas.Array:
        regions = list(PHOTO_REGIONS.values())
        boxes = [(photographs[regions[k][0]], regions[k][1 if training else 2]) for k in labels]
        pictures = np.stack([_patch(rng, photograph, choice) for photograph, choice in boxes])
        return _jittered(rng, pictures.astype(np.float32) / 255)

    return canvas.drawn(canvas.Drawing(tuple(PHOTO_REGIONS), paint), rng, 120, 36)


def _patch(
    rng: np.random.Generator, photograph: NDArray[np.uint8], boxes: tuple[tuple[int, ...], ...]
) -> NDArray[np.uint8]:
    """A square of 24 to 36 pixels out of one of the boxes, as 32 by 32, mirrored half the time."""
    from PIL import Image

    left, top, right, bottom = boxes[rng.integers(len(boxes))]
    side = int(rng.integers(24, 37))
    x, y = int(rng.integers(left, right - side + 1)), int(rng.integers(top, bottom - side + 1))
    patch = Image.fromarray(photograph[y : y + side, x : x + side]).resize(
        (canvas.SIZE, canvas.SIZE), Image.Resampling.BILINEAR
    )
    return np.asarray(patch)[:, :: int(rng.choice((-1, 1)))]


def _jittered(rng: np.random.Generator, pictures: canvas.Array) -> canvas.Array:
    """Pictures (n, 32, 32, 3) with brightness, contrast and colour balance changed at random."""
    n = len(pictures)
    mean = pictures.mean((1, 2), keepdims=True)
    balance = rng.uniform(0.82, 1.18, (n, 1, 1, 3)).astype(np.float32)
    return (mean + (pictures - mean) * canvas.uniform(rng, 0.7, 1.3, n)[..., None]) * balance + canvas.uniform(
        rng, -0.08, 0.08, n
    )[..., None]
