"""Labels by name: the classes of a data set are matched with those of a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepcorrect.data import ImageSet, Preprocessing, open_dataset
from deepcorrect.data import _label_matching as room
from deepcorrect.data._label_matching import ClassNames
from deepcorrect.runtime import InputError

COLOUR = Preprocessing(16, (0.5,) * 3, (0.5,) * 3)
NEEDS_TIMM = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
MakeFolder = Callable[[Mapping[str, int]], Path]


def places(classes: list[str], names: list[str] | None, count: int | None = None) -> list[int]:
    known = ClassNames(count or len(names or classes), names)
    return known.indices(classes, "pets", range(len(classes))).tolist()


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("yin_yang", "Yin Yang"),
        ("GoldenRetriever", "golden retriever"),
        ("car-side", "car_side"),
        ("tench", "tench, Tinca tinca"),
        ("Tinca_tinca", "tench, Tinca tinca"),
        ("tench, Tinca tinca", "tench"),
        ("n01440764", "n01440764 tench"),
        ("n01440764_tench", "n01440764"),
        ("n01440764 tench", "Tench"),
        ("CAFÉ", "café"),
    ],
)
def test_spelling_and_synonyms_do_not_matter(theirs: str, ours: str) -> None:
    assert places([theirs], ["ant", ours, "bee"]) == [1]


def test_another_order_is_found_by_name(make_folder: MakeFolder) -> None:
    images = open_dataset(f"folder:{make_folder({'Cat': 2, 'ant': 1, 'bee': 1})}", COLOUR)
    assert images.labels == [0, 0, 1, 2]
    matched = images.matched(4, ("ant", "bee", "dog", "cat"))
    assert matched.labels == [3, 3, 0, 1]
    assert matched.classes == ("ant", "bee", "dog", "cat")
    assert matched.names == images.names
    assert images.matched(3, ("cat", "ant", "bee")) is images


def test_a_part_that_is_ambiguous_is_no_match_and_a_better_one_is() -> None:
    names = ["crane", "crane, machine", "heron, bird"]
    assert places(["heron", "crane machine"], names) == [2, 1]
    with pytest.raises(InputError, match="such as 'crane', 'Crane'; the network's are"):
        places(["crane", "Crane"], ["crane, bird", "crane, machine"], 2)


def test_what_the_network_does_not_have_is_named_with_what_is_near() -> None:
    with pytest.raises(InputError) as error:
        places(["ant", "bees", "wolf"], ["ant", "bee", "cat", "dog"])
    text = str(error.value)
    assert "pets has 2 classes that the network does not have by that name" in text
    assert "such as 'bees', 'wolf'; the network's are for example 'bee', ..." in text
    assert "by their numbers, 0 to 3" in text


def test_only_classes_that_occur_need_a_match() -> None:
    known = ClassNames(2, ["ant", "bee"])
    assert known.indices(["wolf", "bee"], "pets", [1]).tolist() == [-1, 1]
    black = Image.new("RGB", (1, 1))
    images = ImageSet("pets", lambda _: black, [1, -1, 1], "abc", COLOUR, ("bee", "ant", "wolf"))
    assert images.matched(2, ("ant", "bee")).labels == [0, -1, 0]


def test_numbers_are_classes(capsys: pytest.CaptureFixture[str]) -> None:
    assert places(["0", "1", "2"], None, 10) == [0, 1, 2]
    assert places(["0003", "0007"], ["ant"] * 8) == [3, 7]
    assert places(["0003", "0070"], None, 100) == [3, 70]
    assert places(["01", "02", "10"], None, 3) == [0, 1, 2]  # ranked, as there are as many
    assert places(["3", "7"], None, 10) == [3, 7]  # 0 to 9 have the same order as text
    assert places(["label_3", "label_7"], None, 10) == [3, 7]
    assert places(["5", "7"], ["7", "6", "5"]) == [2, 0]  # names take precedence
    assert places(["0", "1", "10", "2"], ["ant"] * 11) == [0, 1, 10, 2]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("classes", "count", "by_number", "as_text"),
    [
        (["1", "10", "2", "3"], 4, [0, 3, 1, 2], [0, 1, 2, 3]),
        (sorted(map(str, range(12))), 12, [0, 1, 10, 11, *range(2, 10)], [*range(12)]),
        (["5", "50"], 102, [5, 50], [47, 48]),  # some of 0 to 101
        (["class 1", "class 12", "class 5"], 3, [0, 2, 1], [0, 1, 2]),
    ],
)
def test_an_order_that_numbers_and_text_give_differently_is_not_guessed(
    classes: list[str], count: int, by_number: list[int], as_text: list[int]
) -> None:
    known = ClassNames(count, None)
    used = range(len(classes))
    with pytest.raises(InputError, match="--class-order number or --class-order text"):
        known.indices(classes, "pets", used)
    assert known.indices(classes, "pets", used, "number").tolist() == by_number
    assert known.indices(classes, "pets", used, "text").tolist() == as_text


def test_both_orders_are_shown() -> None:
    with pytest.raises(InputError) as error:
        places(["1", "10", "2", "3", "4"], None, 5)
    text = str(error.value)
    assert "1, 2, 3, 4, ... by number, and 1, 10, 2, 3, ... as text" in text
    assert "'10' is the network's class 4 by number, and class 1 as text" in text


def test_a_network_with_names_says_which_order_it_has() -> None:
    numbers = [str(number) for number in range(12)]
    assert places(sorted(numbers), numbers) == [int(name) for name in sorted(numbers)]
    assert places(numbers, sorted(numbers)) == [sorted(numbers).index(name) for name in numbers]
    with pytest.raises(InputError, match="--class-order"):
        places(sorted(numbers), [f"LABEL_{number}" for number in numbers])


def test_a_set_that_lists_its_numbers_in_order_has_only_one() -> None:
    numbers = [str(number) for number in range(12)]
    assert places(numbers, None, 12) == list(range(12))


def test_folders_take_the_order_that_is_asked_for(make_folder: MakeFolder) -> None:
    folders = {str(number): 1 for number in range(1, 12)}
    images = open_dataset(f"folder:{make_folder(folders)}", COLOUR)
    with pytest.raises(InputError, match="does not name its"):
        images.matched(11)
    assert images.matched(11, class_order="text").labels == list(range(11))
    numbered = images.matched(11, class_order="number")
    assert [numbered.labels[row] for row in range(3)] == [0, 9, 10]  # of 1, 10, 11


def test_names_that_say_nothing_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    nothing = [f"LABEL_{number}" for number in range(3)]
    assert places(["ant", "bee", "cat"], nothing) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    assert places(["ant", "bee"], nothing) == [0, 1]
    assert "pets has 2 classes and the network has 3, whose names are not known" in (
        capsys.readouterr().err
    )


def test_a_few_other_names_in_the_same_order_are_taken_for_the_same() -> None:
    names = ["ant", "bee", "maple tree", "dog"]
    assert places(["ant", "bee", "maple", "dog"], names) == [0, 1, 2, 3]
    with pytest.raises(InputError, match="such as 'maple'"):
        places(["bee", "ant", "maple", "dog"], names)


# --- ImageNet


@NEEDS_TIMM
def test_imagenets_numbers_mean_its_classes_in_words() -> None:
    names = ["goldfish", "tench", "hammerhead shark", "Siberian husky"]
    assert places(["n01440764", "n01443537", "n02110185"], names) == [1, 0, 3]
    assert places(["n01443537", "n02110185"], None, 1000) == [1, 250]
    assert places(["tench"], ["n01443537", "n01440764"]) == [1]


@NEEDS_TIMM
def test_imagenets_own_names_find_each_its_class() -> None:
    order = room._imagenet_order()
    assert len(order) == 1000
    words = [room._words()[number] for number in order]
    assert places(list(order), words) == list(range(1000))
    both = [f"{number} {text.split(',')[0]}" for number, text in zip(order, words, strict=True)]
    assert places(both, words) == list(range(1000))
    assert places(both[::2], words) == list(range(0, 1000, 2))
    turned = np.random.default_rng(0).permutation(1000)
    first = [text.split(",")[0] for text in words]
    parts = Counter(part.strip() for text in words for part in text.split(","))
    clear = [int(k) for k in turned if parts[first[k]] == 1]
    assert len(clear) > 950
    assert places([first[k] for k in clear], words) == clear


def test_all_of_imagenet_is_in_order_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_lists", lambda: None)
    room._words.cache_clear()
    room._imagenet_order.cache_clear()
    numbers = [f"n{number:08}" for number in range(1000)]
    try:
        assert places(numbers, [f"name {k}" for k in range(1000)]) == list(range(1000))
        assert places(numbers, None, 1000) == list(range(1000))
        with pytest.raises(InputError, match=r"pip install 'deepcorrect-torch\[timm\]'"):
            places(numbers[:3], [f"name {k}" for k in range(1000)])
    finally:
        room._words.cache_clear()
        room._imagenet_order.cache_clear()
