"""Images: checks with their sentences."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from open_clip.transform import image_transform
from PIL import Image

from otmf.data import cards, datasets, gathering, images
from tests import makers
from tests.otmf.pictures import changed, folder_card, gathered


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed(train_y=np.full(48, 7)), "expected train labels from 0 to 2, one for each class; received 7"),
        (changed(test_y=np.full(18, -1)), "expected test labels from 0 to 2, one for each class; received -1"),
        (changed(train_y=np.zeros(48, int)), "expected train images of at least two classes; received only 'red'"),
        (changed(train_y=np.arange(48) % 2), "expected train images of every class; received none of blue"),
        (makers.arrays(seed=1, train=2), "expected at least one train image for each of 3 classes; received 2 images"),
        (makers.arrays(seed=1, test=0), "expected images in the test part; received none"),
        (makers.arrays(seed=1, train=0), "expected images in the train part; received none"),
        (changed(train_y=np.zeros(5, int)), "expected one label for each of the 48 train images; received"),
        (changed(train_y=np.full(48, 0.5)), "expected train_y as whole numbers in images.npz; received float64"),
        (changed(train_x=np.zeros((48, 16, 16), np.uint8)), "expected train_x as uint8 of shape"),
        (
            changed(train_x=np.zeros((48, 16, 16, 3), np.float32)),
            "expected train_x as uint8 of shape .* received float32",
        ),
        (changed(test_x=None), "expected arrays train_x, train_y, test_x and test_y in .* received none named test_x"),
        (changed(classes=None), "expected `classes` in the card or in .* received neither"),
    ],
)
def test_data_that_cannot_make_a_task_gets_one_sentence(tmp_path, data, message) -> None:
    with pytest.raises(cards.CardError, match=message) as caught:
        datasets.check(gathered(tmp_path, data=data))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_file_that_is_not_an_image_is_named(tmp_path, content) -> None:
    card = folder_card(tmp_path)
    (tmp_path / "given/pictures/train/a/bad.png").write_bytes(content)
    gathering.gather(card, tmp_path / "given", tmp_path / "raw")
    with pytest.raises(cards.CardError, match="expected an image that decodes; received .*bad.png"):
        datasets.check(datasets.load(tmp_path / "raw"))


def test_truncated_image_is_named(tmp_path) -> None:
    card = folder_card(tmp_path)
    whole = (tmp_path / "given/pictures/train/a/0.png").read_bytes()
    (tmp_path / "given/pictures/train/a/0.png").write_bytes(whole[: len(whole) // 2])
    gathering.gather(card, tmp_path / "given", tmp_path / "raw")
    with pytest.raises(
        cards.CardError, match=r"expected an image that decodes; received .*0.png .*replace or remove it"
    ):
        datasets.check(datasets.load(tmp_path / "raw"))


def test_archive_with_pickled_objects_is_refused(tmp_path) -> None:
    data = changed(train_x=np.array([{"code": "runs"}], dtype=object))
    with pytest.raises(
        cards.CardError, match="expected train_x as a plain array in images.npz; received one that does not read"
    ):
        datasets.check(gathered(tmp_path, data=data))


def test_archive_with_something_else_among_its_arrays_is_refused(tmp_path) -> None:
    path = tmp_path / "images.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("train_x.npy", "test_x.npy"):
            archive.writestr(name, b"no array")
    with (
        images.open_arrays(path) as arrays,
        pytest.raises(cards.CardError, match="received one that does not read .a file that is no array"),
    ):
        images.read_array(arrays, "train_x", path)


def test_picture_of_sixteen_bits_keeps_its_shades(tmp_path) -> None:
    shades = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    Image.fromarray(shades).save(tmp_path / "deep.png")
    assert images.decode_picture((tmp_path / "deep.png").read_bytes(), "it", images.Fit(16))[
        ..., 0
    ].ravel().tolist() == list(range(256))


def test_long_thin_picture_is_cropped_before_it_is_resized(tmp_path) -> None:
    """Resized whole it would take gigabytes."""
    Image.new("RGB", (2_000_000, 1), "red").save(tmp_path / "thin.png")
    assert images.decode_picture((tmp_path / "thin.png").read_bytes(), "it", images.Fit(32)).shape == (32, 32, 3)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [(50, 31), (31, 50), (640, 427), (33, 500)])
def test_pictures_become_squares_as_open_clip_makes_them(mode, size) -> None:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8))
    picture = noise.resize(size, Image.Resampling.BICUBIC)
    theirs = image_transform(
        64, is_train=False, mean=(0, 0, 0), std=(1, 1, 1), resize_mode=mode, interpolation="bicubic"
    )
    content = io.BytesIO()
    picture.save(content, "PNG")
    ours = images.decode_picture(content.getvalue(), "it", images.Fit(64, mode)).astype(int)
    expected = (theirs(picture) * 255).round().permute(1, 2, 0).numpy().astype(int)
    assert np.abs(ours - expected).max() <= 1


def test_file_of_another_format_under_an_image_suffix_is_not_interpreted(tmp_path) -> None:
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    with pytest.raises(cards.CardError, match="expected an image that decodes; received .*x.png"):
        images.decode_picture((tmp_path / "x.png").read_bytes(), "x.png", images.Fit(16))


def test_link_that_leads_out_of_the_folder_is_refused(tmp_path) -> None:
    card = folder_card(tmp_path)
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "given/pictures/train/a/x.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(
        cards.CardError, match="expected image files inside .* received 'x.png', which is no file or leads outside"
    ):
        gathering.gather(card, tmp_path / "given", tmp_path / "raw")


def test_pictures_both_in_class_folders_and_beside_them_are_refused(tmp_path) -> None:
    card = folder_card(tmp_path)
    source = tmp_path / "given/pictures/train"
    (source / "stray.png").write_bytes((source / "a/0.png").read_bytes())
    with pytest.raises(
        cards.CardError, match="expected images either all in folders of their classes or all beside each other"
    ):
        gathering.gather(card, tmp_path / "given", tmp_path / "raw")


@pytest.mark.parametrize("classes", [np.array("red"), np.array(["red"] * 3), np.array([], dtype=str)])
def test_classes_of_an_archive_that_are_no_distinct_names_are_refused(tmp_path, classes) -> None:
    with pytest.raises(cards.CardError, match="expected `classes` as at least two distinct names in squares.npz"):
        gathered(tmp_path, data=changed(classes=classes))


def test_single_array_under_the_name_of_an_archive_is_refused(tmp_path) -> None:
    path = makers.card(tmp_path / "given")
    with path.with_suffix(".npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(cards.CardError, match="expected an npz archive of plain arrays; received .* .a single array."):
        gathering.gather(cards.read(path), path.parent, tmp_path / "raw")


def test_archive_that_would_become_far_larger_is_refused_unread(tmp_path) -> None:
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("train_x.npy", "test_x.npy"):
            with archive.open(name, "w", force_zip64=True) as stream:
                for _ in range(640):
                    stream.write(bytes(1 << 20))
    with pytest.raises(cards.CardError, match=r"bytes that would become 1342177280"):
        images.open_arrays(path)
