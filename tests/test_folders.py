"""Folders as people have them: leftovers, links, other files, and other layouts."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from PIL import Image

from deepcorrect.data import ImageSet, Preprocessing, images_in, open_dataset
from deepcorrect.runtime import InputError

COLOUR = Preprocessing(16, (0.5,) * 3, (0.5,) * 3)
MakeFolder = Callable[[Mapping[str, int]], Path]


def opened(folder: Path) -> ImageSet:
    return open_dataset(f"folder:{folder}", COLOUR)


# --- what is a class


def test_folders_without_images_are_no_classes_and_named_once(
    make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    others = {"__MACOSX": 1, "_trash": 2, "0_empty": 0, ".hidden": 1, "@eaDir": 1}
    folder = make_folder({"ant": 2, "bee": 1, **others})
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").touch()
    for _ in range(2):
        images = opened(folder)
        assert images.classes == ("ant", "bee")
        assert images.labels == [0, 0, 1]
    error = capsys.readouterr().err
    assert error.count("7 sub-folders of") == 1
    assert ".hidden, 0_empty, @eaDir, ..." in error
    assert error.count("1 file in") == 1


def test_leftovers_inside_a_class_are_not_read(make_folder: MakeFolder) -> None:
    folder = make_folder({"ant": 2})
    for name in ("@eaDir", "__MACOSX", ".thumbs"):
        shutil.copytree(folder / "ant", folder / "ant" / name)
    assert opened(folder).names == ["ant/0.png", "ant/1.png"]


def test_empty_folders_count_where_the_network_has_as_many_classes(
    make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    images = opened(make_folder({"ant": 1, "bee": 0, "cat": 2}))
    assert images.matched(3).labels == [0, 2, 2]
    assert "so these count as classes" in capsys.readouterr().err
    assert images.matched(2).labels == [0, 1, 1]
    assert images.matched(3, ("cat", "ant", "cow")).labels == [1, 0, 0]


@pytest.mark.parametrize("names", [("train", "val"), ("Training", "test", "valid")])
def test_parts_of_a_set_are_no_classes(make_folder: MakeFolder, names: tuple[str, ...]) -> None:
    folder = make_folder(dict.fromkeys(names, 1))
    with pytest.raises(InputError, match="are parts of a set and no classes"):
        opened(folder)


def test_a_train_is_a_class_beside_others(make_folder: MakeFolder) -> None:
    assert opened(make_folder({"bus": 1, "train": 1})).classes == ("bus", "train")


def test_a_single_folder_of_images_is_no_class(make_folder: MakeFolder) -> None:
    folder = make_folder({"images": 2})
    with pytest.raises(InputError, match=f"give folder:{folder / 'images'}"):
        opened(folder)


# --- Tiny-ImageNet


def test_tiny_imagenets_validation_images_have_their_annotations(
    make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder({"images": 3})
    lines = ["1.png\tn00000002\t0\t0\t9\t9", "0.png\tn00000007\t0\t0\t9\t9", "2.png n00000002"]
    (folder / "val_annotations.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    images = opened(folder)
    assert images.classes == ("n00000002", "n00000007")
    assert images.labels == [1, 0, 0]
    assert images.names == ["images/0.png", "images/1.png", "images/2.png"]
    assert images[0] is not None
    (folder.parent / "wnids.txt").write_text("n00000007\nn00000001\n", encoding="utf-8")
    images = opened(folder)
    assert images.classes == ("n00000001", "n00000002", "n00000007")
    assert images.labels == [2, 1, 1]
    assert capsys.readouterr().err == ""
    (folder / "val_annotations.txt").write_text("\n".join(lines[1:]), encoding="utf-8")
    with pytest.raises(InputError, match="1 images of .* such as images/1.png"):
        opened(folder)
    (folder / "val_annotations.txt").write_text("0.png\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 1 of .*val_annotations"):
        opened(folder)


# --- links


def test_links_to_images_and_class_folders_are_followed(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    folder = make_folder({"ant": 1})
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(folder / "ant", elsewhere)
    (folder / "bee").symlink_to(elsewhere, target_is_directory=True)
    (folder / "ant" / "more").symlink_to(elsewhere, target_is_directory=True)
    (folder / "ant" / "z.png").symlink_to(elsewhere / "0.png")
    images = opened(folder)
    assert images.classes == ("ant", "bee")
    assert images.names == ["ant/0.png", "ant/more/0.png", "ant/z.png", "bee/0.png"]
    assert all(images[row] is not None for row in range(4))
    linked = tmp_path / "linked"
    linked.symlink_to(folder, target_is_directory=True)
    assert opened(linked).names == images.names


def test_links_in_a_circle_end(
    make_folder: MakeFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder({"ant": 1, "bee": 1})
    for link, target in (
        ("self", folder),
        ("up", tmp_path),
        ("ant/again", folder / "ant"),
        ("ant/bees", folder / "bee"),
        ("bee/ants", folder / "ant"),
    ):
        (folder / link).symlink_to(target, target_is_directory=True)
    images = opened(folder)
    assert images.classes == ("ant", "bee")
    assert images.names == ["ant/0.png", "ant/bees/0.png", "bee/0.png", "bee/ants/0.png"]
    assert "is a link to a folder that contains it, and is not followed" in capsys.readouterr().err


def test_a_link_that_leads_nowhere_is_a_bad_image_or_named(
    make_folder: MakeFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder({"ant": 1})
    (folder / "ant" / "gone.png").symlink_to(tmp_path / "gone.png")
    (folder / "bee").symlink_to(tmp_path / "gone", target_is_directory=True)
    images = opened(folder)
    assert images[1] is None
    assert images.bad == ["ant/gone.png"]
    assert "not that of an image that Pillow reads: bee" in capsys.readouterr().err


# --- other files


def test_files_that_are_not_read_are_counted_and_named(
    make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder({"ant": 1, "bee": 1})
    for name in ("ant/a.HEIC", "ant/b.heic", "ant/c.txt", "bee/noextension", "read.me"):
        (folder / name).touch()
    for name in ("bee/.DS_Store", "bee/._0.png"):
        (folder / name).touch()
    (folder / "bee" / ".secret.png").touch()
    for _ in range(2):
        assert len(opened(folder)) == 2
    error = capsys.readouterr().err
    assert error.count("6 files in") == 1
    assert "read.me, ant/a.HEIC, ant/b.heic, ..." in error
    assert "2 of these are photographs in a format such as .heic" in error
    assert "convert to JPEG or PNG first, such as ant/a.HEIC" in error


def test_photographs_alone_are_named_before_the_refusal(
    make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder({"ant": 0})
    (folder / "ant" / "IMG_0001.HEIC").touch()
    for _ in range(2):
        assert list(images_in(folder)) == []
    with pytest.raises(InputError, match="has no images"):
        opened(folder)
    error = capsys.readouterr().err
    assert error.count("1 file in") == 1
    assert "1 of these is a photo in a format such as .heic" in error


def test_a_folder_of_images_alone_names_its_other_files(
    make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder({"": 2})
    (folder / "labels.csv").touch()
    images = opened(folder)
    assert (len(images), images.labelled) == (2, False)
    assert "1 file in" in (error := capsys.readouterr().err)
    assert "labels.csv" in error


def test_nothing_is_said_of_a_clean_folder(
    make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    opened(make_folder({"ant": 1, "bee": 1}))
    assert capsys.readouterr().err == ""


# --- what the classes are


def test_a_lone_part_of_a_set_is_no_class(make_folder: MakeFolder) -> None:
    folder = make_folder({"train": 0})
    for name in ("ant", "bee"):
        (folder / "train" / name).mkdir()
        Image.new("RGB", (4, 4)).save(folder / "train" / name / "0.png")
    with pytest.raises(InputError, match=r"one sub-folder, 'train', .* give folder:.*/train"):
        opened(folder)


@pytest.mark.parametrize("names", [("train2017", "val2017"), ("train_set", "Test-Set")])
def test_parts_with_longer_names_are_no_classes(
    make_folder: MakeFolder, names: tuple[str, ...]
) -> None:
    with pytest.raises(InputError, match="are parts of a set and no classes"):
        opened(make_folder(dict.fromkeys(names, 1)))


def deeper(folder: Path, outer: tuple[str, ...], inner: tuple[str, ...]) -> Path:
    for name in outer:
        for below in inner:
            (folder / name / below).mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(folder / name / below / "0.png")
    return folder


def test_folders_above_the_classes_are_refused_as_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = opened(deeper(tmp_path, ("clean", "noisy"), ("ant", "bee", "cat")))
    assert "are its sub-folders (clean, noisy)" in capsys.readouterr().err
    for names in (None, ("cat", "bee", "ant")):
        with pytest.raises(InputError, match=r"2 sub-folders \(clean, noisy\).* in ant, bee, cat"):
            images.matched(3, names)
    assert images.matched(2).labels == [0, 0, 0, 1, 1, 1]
    assert images.matched(3, ("noisy", "x", "clean")).labels == [2, 2, 2, 0, 0, 0]


def test_numbered_classes_may_have_deeper_folders(tmp_path: Path) -> None:
    images = opened(deeper(tmp_path, ("3", "5"), ("monday", "friday")))
    assert images.matched(10).labels == [3, 3, 5, 5]


def test_an_image_in_a_class_itself_shows_the_level(tmp_path: Path) -> None:
    folder = deeper(tmp_path, ("ant", "bee"), ("one", "two"))
    Image.new("RGB", (4, 4)).save(folder / "bee" / "0.png")
    assert opened(folder).matched(3).labels == [0, 0, 1, 1, 1]


def test_more_folders_than_classes_are_counted(make_folder: MakeFolder) -> None:
    images = opened(make_folder({"ant": 1, "bee": 1, "cat": 1}))
    with pytest.raises(InputError, match=r"has 3 classes \('ant', .* and the network has 2"):
        images.matched(2)


@pytest.mark.parametrize("name", ["fish{}", "{}_cod", "a {} b"])
def test_names_with_numbers_have_two_orders(make_folder: MakeFolder, name: str) -> None:
    names = [name.format(number) for number in range(11)]
    images = opened(make_folder(dict.fromkeys(names, 1)))
    assert images.classes == tuple(sorted(names))
    with pytest.raises(InputError, match="are or have numbers"):
        images.matched(11)
    assert images.matched(11, class_order="text").labels == list(range(11))
    by_number = images.matched(11, class_order="number").labels
    assert by_number == [names.index(each) for each in sorted(names)]


def test_names_whose_orders_agree_need_no_choice(make_folder: MakeFolder) -> None:
    for names in (["fish1", "fish2"], ["n00000001", "n00000010"], ["-1", "0"], ["a1", "b2"]):
        folder = make_folder(dict.fromkeys(names, 1))
        assert opened(folder).matched(2).labels == [0, 1]
        shutil.rmtree(folder)


def test_a_number_before_a_name_does_not_hide_it(make_folder: MakeFolder) -> None:
    images = opened(make_folder({"001.Ant": 1, "002.bumble_bee": 1, "7 - cat": 1}))
    assert images.matched(3, ("cat", "bumble bee", "ant")).labels == [2, 1, 0]


@pytest.mark.parametrize("twins", [("Ant", "ant"), ("caf\u00e9", "cafe\u0301"), ("a-b", "a_b")])
def test_two_folders_for_one_class_are_refused(
    make_folder: MakeFolder, twins: tuple[str, str]
) -> None:
    images = opened(make_folder(dict.fromkeys(twins, 1)))
    with pytest.raises(InputError, match="give each class one folder"):
        images.matched(3, (twins[0], "x", "y"))


def test_names_match_in_either_form_of_unicode(make_folder: MakeFolder) -> None:
    images = opened(make_folder({"cafe\u0301": 1, "ANT ": 1}))
    assert images.matched(2, ("ant", "caf\u00e9")).labels == [0, 1]


def test_numbers_beside_names_are_said(
    make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    images = opened(make_folder({"0": 1, "1": 1, "unknown": 1}))
    assert images.matched(3).labels == [0, 1, 2]
    assert (
        "with and without numbers for names, such as '0' and 'unknown'" in capsys.readouterr().err
    )


# --- what is no folder of images


def test_tables_of_labels_are_named(
    make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder({"": 2})
    (folder / "labels.csv").write_text("file,label\n0.png,3\n")
    assert not opened(folder).labelled
    assert "labels in labels.csv are not read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.parquet", b"PAR1", r"give parquet:.*/\*\.parquet"),
        ("a.tar", b"x", r"give webdataset:.*/\*\.tar"),
        ("a.zip", b"PK\x03\x04", "damaged"),
        ("a", b"\xff\xd8\xff\xe0", "a JPEG image"),
        ("t10k", b"\0\0\x08\x03", "IDX file, as MNIST's"),
    ],
)
def test_folders_of_other_files_say_what_to_give(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"has no images.*{said}"):
        opened(tmp_path)


def test_paths_that_are_no_folders_are_explained(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "pictures", "pictures")
    (tmp_path / "lost").symlink_to(tmp_path / "gone")
    for name, said in {
        "pictuers": "did you mean 'pictures'",
        "a.tar": "is a file, and a folder is needed: it is a tar archive",
        "lost": "is a link to .*gone, which does not exist",
        "$HOME/pictures": "variables and patterns are not replaced",
        "pict*": "variables and patterns are not replaced",
    }.items():
        with pytest.raises(InputError, match=said):
            opened(tmp_path / name)
        with pytest.raises(InputError, match=said):
            open_dataset(f"caltech101:{tmp_path / name}", COLOUR)
    for spec in (f'folder:"{tmp_path}/pictures"', f"folder: {tmp_path}/pictures"):
        with pytest.raises(InputError, match="without quotes and spaces"):
            open_dataset(spec, COLOUR)


def test_paths_without_a_kind_of_data_say_which_to_give(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").touch()
    for spec, said in {
        str(tmp_path): f"give folder:{tmp_path}",
        f"file://{tmp_path}": f"give folder:{tmp_path}",
        str(tmp_path / "a.parquet"): f"give parquet:{tmp_path}/a.parquet",
        f"Folder:{tmp_path}": f"write folder:{tmp_path}",
    }.items():
        with pytest.raises(InputError, match=said):
            open_dataset(spec, COLOUR)
