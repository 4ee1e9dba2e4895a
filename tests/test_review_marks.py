"""Marks of readers: kept, found again, taken back; by two at once; by hand; and what they would change."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

from thyroid_utils.common.errors import DataError
from thyroid_utils.data.readers import load_cases
from thyroid_utils.studies import review_marks as study
from thyroid_utils.studies import second_labels as labels
from thyroid_utils.studies.review_marks import COLUMNS, Marks

ONE, OTHER = "image-0123456789", "image-9876543210"
HEADING = ",".join(COLUMNS)


@pytest.fixture
def marks(tmp_path):
    return Marks(tmp_path / "review.csv")


def test_a_mark_is_found_again_replaced_by_its_reader_and_taken_back_by_nobody_else(marks):
    assert marks.table.empty and marks.of("a", ONE).empty
    marks.add("a", ONE, "label wrong", "ABC", "benign", 'calcified,\n"rim" ; see ß')
    marks.add("a", OTHER, "outline poor", "ABC")  # another image of that name
    marks.add("a", ONE, "label wrong", "XYZ", "malignant")
    marks.add("a", ONE, "label wrong", " ABC ", "")
    assert marks.of("a", ONE)[["kind", "value", "reader"]].values.tolist() == [
        ["label wrong", "malignant", "XYZ"],
        ["label wrong", "", "ABC"],
    ]
    marks.undo("a", ONE, "label wrong", "ABC")
    marks.undo("a", ONE, "label wrong", "nobody")
    assert marks.of("a", ONE)["reader"].tolist() == ["XYZ"] and len(marks.table) == 2


@pytest.mark.parametrize("note", ["=1+1", "+cmd|'/C calc'!A0", "-2", "@SUM(A1)", "'quoted", 'a, b; c"d', "ß π 结"])
def test_no_spreadsheet_takes_a_note_for_a_formula_and_it_reads_the_same(marks, note):
    marks.add("a", ONE, "note", "=me()", note=note)
    assert marks.table.loc[0, ["note", "reader"]].tolist() == [note, "=me()"]
    line = pd.read_csv(marks.path).iloc[0]
    assert not line["note"].startswith(("=", "+", "-", "@")) and line["reader"] == "'=me()"


@pytest.mark.parametrize(
    ("kind", "value", "note", "told"),
    [
        ("lable wrong", "", "", "kind is 'lable wrong'; expected label wrong, label read"),
        ("label wrong", "harmless", "", "value is 'harmless'; expected of label wrong: benign or malignant"),
        ("outline poor", "benign", "", "expected of outline poor: empty"),
        ("duplicate", "a", "", "the id of the case that it repeats"),
        ("duplicate", "", "", "the id of the case that it repeats"),
        ("note", "", " \n", "a note without words"),
        ("note", "", "word " * 201, "a cell of more than 1000 letters"),
        ("label read", "", "", "value is ''; expected of label read: benign or malignant"),
    ],
)
def test_a_mark_that_says_nothing_is_not_kept(marks, kind, value, note, told):
    with pytest.raises(DataError, match=told):
        marks.add("a", ONE, kind, "ABC", value, note)
    with pytest.raises(DataError, match="reader is empty"):
        marks.add("a", ONE, "outline poor", " ")
    assert not marks.path.exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            f"{HEADING}\na,{ONE},label wrong,,,ABC,\na,{ONE},label bad,,,ABC,\n",
            "line 3: kind is 'label bad'; expected label wrong",
        ),
        (f"{HEADING}\na,{ONE},outline poor,,,ABC\n", "line 2: 6 values; expected 7"),
        (f"{HEADING}\na,1234,outline poor,,,ABC,\n", "line 2: image is '1234' of case 'a'; expected both as the app writes them"),
        (f'{HEADING}\na,{ONE},note,,"two\nlines",ABC,\na,{ONE},note,,,ABC,\n', "line 4: a note without words"),
        (f"{HEADING}\na,{ONE},label read,benign,,,\n", "line 2: reader is empty"),
        ("case,kind\na,note\n", "line 1 is not case,image,kind"),
        ("", "line 1 is not case,image,kind"),
        (f"{HEADING}\na,{ONE},note,,caf\xe9,ABC,\n".encode("latin-1"), "no CSV in UTF-8"),
    ],
)
def test_a_file_that_was_edited_badly_is_named_with_its_line_and_stays_as_it_is(marks, text, told):
    content = text if isinstance(text, bytes) else text.encode()
    marks.path.write_bytes(content)
    for change in (lambda: marks.add("b", ONE, "outline poor", "ABC"), lambda: marks.undo("a", ONE, "note", "ABC")):
        with pytest.raises(DataError, match=told):
            change()
    assert marks.path.read_bytes() == content


def test_a_file_as_spreadsheets_save_it_is_read(marks):
    text = f"{HEADING}\na,{ONE},note,,'=x,ABC,28.11.2026\n,,,,,,\nb,{ONE},label read,,,,\n".replace(",", ";").replace(
        "\n", "\r\n"
    )
    marks.path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert marks.table[["case", "note"]].values.tolist() == [["a", "=x"]]  # an image that nobody has read yet has no mark


AT_ONCE = """
import sys, time
from thyroid_utils.studies import review_marks as study
read = study.read_marks
study.read_marks = lambda path: (read(path), time.sleep(0.05))[0]  # the other reads meanwhile
print("ready", flush=True), sys.stdin.readline()
for number in range(5):
    study.Marks(sys.argv[1]).add(f"case-{number}", "image-0123456789", "outline poor", sys.argv[2])
"""


def test_two_readers_at_once_lose_nothing(marks):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    readers = [subprocess.Popen([sys.executable, "-c", AT_ONCE, str(marks.path), name], **pipes) for name in ("ABC", "XYZ")]
    assert [reader.stdout.readline() for reader in readers] == ["ready\n"] * 2
    for reader in readers:
        reader.stdin.write("go\n")
        reader.stdin.flush()
    assert [reader.wait(60) for reader in readers] == [0, 0]
    assert marks.table.groupby("reader")["case"].nunique().to_dict() == {"ABC": 5, "XYZ": 5}
    assert [path.name for path in marks.path.parent.iterdir() if path.suffix != ".lock"] == ["review.csv"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "runs").write_text("no folder")
    with pytest.raises(DataError, match="the mark cannot be written"):
        Marks(tmp_path / "runs" / "review.csv").add("a", ONE, "outline poor", "ABC")


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THYROID_WORKBOOK_CACHE", str(tmp_path_factory.mktemp("cache")))
        options = {"patients": 3, "size": 64, "views": [1, 1]}
        yield load_cases("phantom", **options), load_cases("phantom", **options, seed=1)


def test_marks_are_of_an_image_and_not_of_its_name_alone(cases, marks):
    mine, others = cases
    first, second = mine.index[:2]
    assert first in others.index
    for table in cases:
        marks.add(first, study.image_code(table.at[first, "image"]), "label wrong", "ABC", "benign")
    marks.add(second, study.image_code(mine.at[second, "image"]), "duplicate", "ABC", first)
    marks.add(second, study.image_code(mine.at[second, "image"]), "label wrong", "XYZ", "benign")
    marks.add(second, study.image_code(mine.at[second, "image"]), "label read", "ABC", "malignant")
    found = study.marks_of(str(marks.path), mine)
    assert len(found) == 4 and found.attrs["others"] == 1
    assert study.second_labels(found).to_dict() == {first: 0}  # of the second readers say both
    assert study.second_labels(found, "label read").to_dict() == {second: 1}
    told = "4 marks of 2 images of this data set, 1 of images that are not in it; on 1 image readers give both labels"
    assert study.marks_sentence(found).startswith(told)
    table = study.marks_by_kind(found).set_index("kind")
    assert table.loc["label wrong", ["marks", "readers", "images", "patients"]].tolist() == [2, 2, 2, 2]
    assert list(table.index) == ["label wrong", "label read", "duplicate"]
    malignant = int(mine.loc[[first, second], "label"].sum())
    assert table.loc["label wrong", ["labelled benign", "labelled malignant"]].tolist() == [2 - malignant, malignant]


def test_no_marks_are_no_marks(cases):
    found = study.marks_of("", cases[0])
    assert found.empty and study.marks_by_kind(found).empty and study.second_labels(found).empty
    assert study.marks_sentence(found).startswith("no marks of no images of this data set;")
    with pytest.raises(DataError, match=r"nowhere\.csv: cannot be read"):
        study.marks_of("nowhere.csv", cases[0])


def _marks(*rows: tuple[str, str, str]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["case", "kind", "value"])
    return table.assign(reader="ABC", patient="p-" + table["case"])


def test_kappa_is_that_of_scikit_learn_and_of_a_count_by_hand():
    first, second = pd.Series([0, 0, 1, 1, 1, 0]), pd.Series([0, 1, 1, 1, 0, 0])
    found = labels.cohen_kappa(first, second, pd.Series(list("abcdef")))
    assert found.value == pytest.approx((4 / 6 - 0.5) / 0.5) == pytest.approx(cohen_kappa_score(first, second))
    assert -1 < found.low < found.value < found.high < 1
    random = np.random.default_rng(0)
    many = random.integers(0, 2, (2, 60))
    assert labels.cohen_kappa(*map(pd.Series, many), pd.Series(np.arange(60) // 2).astype(str)).value == pytest.approx(
        cohen_kappa_score(*many)
    )
    assert np.isnan(labels.cohen_kappa(first * 0, first * 0, pd.Series(list("abcdef"))).value)


def test_agreement_is_withheld_where_only_labels_called_wrong_were_read_again():
    images = pd.DataFrame({"label": [0, 1, 1], "patient": ["a", "b", "c"]}, pd.Index(["a", "b", "c"], name="case"))
    assert "cannot be said" in labels.agreement_sentence(_marks(("a", "label wrong", "malignant")), images)
    read = _marks(*((case, "label read", value) for case, value in zip("abc", ("benign", "malignant", "benign"), strict=True)))
    assert "Of 3 images read without the label, Cohen's κ of the two labels is 0.40" in labels.agreement_sentence(read, images)


def test_scores_with_second_labels_stand_beside_those_as_labelled():
    truth = pd.Series([0, 0, 1, 1], list("abcd"), name="label")
    probabilities, patients = np.array([[0.1, 0.8, 0.9, 0.3]]), pd.Series(list("abcd"), list("abcd"))
    table = pd.DataFrame({"label": truth, "patient": patients})
    comparison = SimpleNamespace(models=["net"], answers=lambda model: (truth, probabilities, patients), truth=table)
    marks = _marks(("b", "label wrong", "malignant"), ("d", "duplicate", "c"), ("z", "label wrong", "benign"))
    row = labels.scores_by_label(comparison, marks).iloc[0]
    assert row["as labelled"].value == pytest.approx(0.75)  # d (0.3) lies below b (0.8): one pair in four
    assert row["second labels"].value == pytest.approx(1.0)  # b is malignant now
    assert (row["without"].value, row["without"].images) == (1.0, 2)
    told = labels.label_sentence(comparison, marks)
    told_first = (
        "Test images: 4; with a second label: 1, with another than the first: 1; called wrongly labelled or a duplicate: 2."
    )
    assert told.startswith(told_first) and "flatter" in told
    none_left = labels.scores_by_label(comparison, _marks(*((case, "label wrong", "benign") for case in "abcd"))).iloc[0]
    assert none_left["without"].text() == "no image is left" and "no patients with malignant" in none_left["second labels"].text()


def test_precision_counts_only_suspects_that_were_read_without_their_label():
    ranked = pd.DataFrame({"label": 0, "patient": list("abcdefg"), "suspect": [True] * 3 + [False] * 4}, list("abcdefg"))
    read = (("b", "label read", "malignant"), ("c", "label read", "benign"), ("f", "label read", "malignant"))
    found = labels.suspects_confirmed(_marks(("a", "label wrong", ""), *read), ranked)
    assert found[["first", "read", "otherwise", "called wrong"]].values.tolist() == [[3, 2, 1, 1], [5, 2, 1, 1], [7, 3, 2, 1]]
    assert found["precision"].iloc[0].value == pytest.approx(0.5)
    shown = labels.suspects_confirmed(_marks(*((case, "label wrong", "") for case in "abc")), ranked).iloc[0]
    assert shown["called wrong"] == 3 and shown["precision"].text() == "none was read without its label"
    assert labels.suspects_confirmed(_marks(("z", "label wrong", "")), ranked).empty


def test_of_two_images_that_repeat_one_another_one_stays():
    marks = _marks(("a", "duplicate", "b"), ("b", "duplicate", "a"), ("c", "duplicate", "b"), ("d", "note", ""))
    assert study.repeated(marks) == {"a", "c"}
