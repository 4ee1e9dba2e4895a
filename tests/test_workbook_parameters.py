"""Parameter files are held to what the notebooks declare, before anything runs."""

from __future__ import annotations

import pytest
from workbook_project import notebook, write_project

from thyroid_utils.common.errors import ParameterError
from thyroid_utils.workbook.parameters import (
    declared_parameters,
    parameters_by_notebook,
    parse_parameters,
    read_parameter_file,
    select_notebooks,
)

SECOND = (
    "SIZE = 64  # pixels\nLOSS = 'dice'  # one of: dice, focal\nNAMES = ['unet']  # one of: unet, 'unet++' or fpn\nFAST = True"
)


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("THYROID_WORKBOOK_ROOT", str(tmp_path))
    first, second = notebook("Data exploration"), notebook("Losses", parameters=SECOND)
    write_project(tmp_path, n01_data_exploration=first, n05_loss_ablation=second)

    def given(text="", settings=(), data_root=None):
        path = tmp_path / "params" / "test.yaml"
        path.write_text(text or "common: {}", encoding="utf-8")
        return parameters_by_notebook(read_parameter_file(path), settings, data_root)

    given.root = tmp_path
    return given


def message(call, *arguments, **options) -> str:
    with pytest.raises(ParameterError) as raised:
        call(*arguments, **options)
    return str(raised.value)


def test_a_parameters_cell_is_read_with_its_comments():
    found = parse_parameters(
        'A = 1  # pixels, 1 to 9\nB: float = 1e-3  # 1e-5 to 0.1; the rate\nC = [\n    "x",  # one of: x, y\n]\nD = None'
    )
    assert {name: parameter.default for name, parameter in found.items()} == {"A": 1, "B": 1e-3, "C": ["x"], "D": None}
    assert (found["A"].low, found["A"].high) == (1, 9) and (found["B"].low, found["B"].high) == (1e-5, 0.1)
    assert found["C"].options == ("x", "y") and found["D"].options == ()


def test_a_parameters_cell_holds_literals_only():
    assert "SIZE is no literal" in message(parse_parameters, "SIZE = 2 * WIDTH")
    assert "only NAME = literal" in message(parse_parameters, "import os")


def test_a_range_in_the_comment_of_a_text_or_a_dict_means_nothing():
    assert parse_parameters('ROOT = ""  # 1 to 6 folders')["ROOT"].low is None
    assert parse_parameters("OPTIONS = {}  # 1 to 6 of them")["OPTIONS"].low is None


def test_common_values_go_to_the_notebooks_that_declare_them_and_sections_win(project):
    given = project("common: {SIZE: 128, SHARE: 1, LOSS: focal}\n05_loss_ablation: {SIZE: 256}")
    assert given == {"01_data_exploration": {"SIZE": 128, "SHARE": 1}, "05_loss_ablation": {"SIZE": 256, "LOSS": "focal"}}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("common: {SIEZ: 3}", ["common", "SIEZ", "any notebook", "did you mean SIZE"]),
        ("05_loss_ablation: {LOS: dice}", ["05_loss_ablation", "LOS ", "did you mean LOSS"]),
        ("05_loss_ablation: {SHARE: 0.5}", ["SHARE", "the notebook 05_loss_ablation"]),
        ("common: {size: 3}", ["size", "did you mean SIZE"]),
        ("common: {QQQ: 3}", ["QQQ", "known: ", "SEEDS"]),
        ("05_loss_abaltion: {LOSS: dice}", ["05_loss_abaltion", "did you mean 05_loss_ablation"]),
        ("comon: {SIZE: 3}", ["comon", "did you mean common"]),
    ],
)
def test_a_misspelt_name_is_an_error_that_names_the_nearest(project, text, names):
    told = message(project, text)
    assert "\n" not in told and all(name in told for name in names), told


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SIZE: 2000", "SIZE of 01_data_exploration must lie in 32 to 1024, found 2000"),
        ("SIZE: 64.5", "must be a whole number like 64, found a number 64.5"),
        ("SIZE: true", "must be a whole number"),
        ("SIZE: '64'", "must be a whole number like 64, found text '64'"),
        ("SIZE: null", "found nothing"),
        ("SHARE: half", "SHARE of 01_data_exploration must be a number"),
        ("SHARE: 1.5", "must lie in 0 to 1"),
        ("SEEDS: 3", "must be a list"),
        ("SEEDS: [0, x]", "must be a list like [0], found a list [0, 'x']"),
        ("LIMIT: 101", "LIMIT of 01_data_exploration must lie in 1 to 100"),
        ("DATASET: dti", "must be one of phantom, ddti; found 'dti'; did you mean ddti?"),
        ("NAMES: [unet, unett]", "must be one of unet, unet++, fpn; found 'unett'"),
        ("FAST: 1", "must be true or false"),
        ("SEEDS: []", "SEEDS of 01_data_exploration must hold at least one value, like [0]"),
        ("LIMIT: many", "LIMIT of 01_data_exploration must lie in 1 to 100, found 'many'"),
    ],
)
def test_a_wrong_type_or_an_impossible_value_is_an_error(project, text, expected):
    assert expected in message(project, f"common:\n  {text}")


@pytest.mark.parametrize("text", ["SHARE: 1", "SHARE: 5e-1", "LIMIT: 100", "LIMIT: null", "NAMES: [unet++]", "SIZE: 32"])
def test_possible_values_pass(project, text):
    assert project(f"common:\n  {text}")


def test_what_is_wrong_in_several_notebooks_is_one_line(project):
    told = message(project, "common: {SIZE: big}")
    assert told.splitlines() == [
        "test.yaml, common: SIZE of 01_data_exploration, 05_loss_ablation must be a whole number like 64, found text 'big'"
    ]


def test_a_section_may_be_merged_from_another(project):
    given = project("common: &all\n  SIZE: 128\n05_loss_ablation:\n  <<: *all\n  SIZE: 96\n  LOSS: focal")
    assert given["05_loss_ablation"] == {"SIZE": 96, "LOSS": "focal"}


def test_every_problem_is_told_at_once(project):
    assert len(message(project, "common: {SIEZ: 3, SHARE: 2}", settings=["LOSS=dcie"]).splitlines()) == 3


def test_set_wins_over_the_file_and_may_name_a_notebook(project):
    given = project(
        "common: {SIZE: 128}\n05_loss_ablation: {SIZE: 200}",
        settings=["SIZE=96", "05.LOSS=focal", "01_data_exploration.SEEDS=[1, 2]"],
    )
    assert given == {"01_data_exploration": {"SIZE": 96, "SEEDS": [1, 2]}, "05_loss_ablation": {"SIZE": 96, "LOSS": "focal"}}


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("SIEZ=3", "did you mean SIZE"),
        ("SIZE", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("05.SHARE=0.5", "SHARE is no parameter of the notebook 05_loss_ablation"),
        ("09.SIZE=3", "no notebook '09'"),
        ("SIZE=[", "no YAML"),
        ("SIZE=1", "must lie in 32 to 1024"),
    ],
)
def test_a_bad_set_is_an_error(project, setting, expected):
    assert expected in message(project, settings=[setting])


def test_data_root_is_absolute_for_the_kernel_and_must_exist(project, tmp_path, monkeypatch):
    (tmp_path / "here" / "ddti").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    from pathlib import Path

    assert project(data_root=Path("ddti"))["01_data_exploration"]["DATA_ROOT"] == str(tmp_path / "here" / "ddti")
    assert project("common: {DATA_ROOT: data/x}")["01_data_exploration"]["DATA_ROOT"] == str(tmp_path / "data" / "x")
    assert "no such folder" in message(project, data_root=Path("missing"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("common:\n  SIZE: 1\n  SIZE: 2\n", "line 3: the key 'SIZE' is given twice"),
        ("common:\n  SIZE: [1, 2\ntitle: x\n", "line 3"),
        ("- a\n- b\n", "expected keys title, common"),
        ("common: 3\n", "common must hold NAME: value lines"),
        ("title: [1]\n", "title must be text"),
        ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
    ],
)
def test_a_broken_file_is_an_error_with_its_line(project, text, expected):
    assert expected in message(project, text)


def test_a_file_saved_by_a_windows_editor_is_read(project):
    assert project("\ufeffcommon: {SIZE: 128}")["05_loss_ablation"] == {"SIZE": 128}
    (project.root / "params" / "test.yaml").write_bytes("title: Schilddrüse".encode("latin-1"))
    assert "UTF-8" in message(read_parameter_file, project.root / "params" / "test.yaml")


def test_a_missing_file_is_an_error_that_lists_the_others(project):
    assert "test.yaml" in message(read_parameter_file, project.root / "params" / "tset.yaml")


def test_notebooks_are_chosen_by_number_in_their_order(project):
    assert [path.stem for path in select_notebooks(["5", "01"])] == ["01_data_exploration", "05_loss_ablation"]
    assert len(select_notebooks([])) == 2
    assert "there are 01_data_exploration, 05_loss_ablation" in message(select_notebooks, ["07"])


def test_a_file_that_is_no_notebook_is_an_error_that_names_it(project):
    path = project.root / "notebooks" / "06_broken.ipynb"
    path.write_text("{", encoding="utf-8")
    assert "06_broken.ipynb: not a Jupyter notebook" in message(declared_parameters, path)


def test_an_option_that_the_reader_does_not_take_stops_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("THYROID_WORKBOOK_ROOT", str(tmp_path))
    parameters = 'DATASET = "phantom"  # a reader\nDATA_OPTIONS = {"patients": 4}  # options of the reader'
    write_project(tmp_path, n01_first=notebook("First", parameters=parameters))
    path = tmp_path / "params" / "test.yaml"
    path.write_text("common: {DATASET: phantom, DATA_OPTIONS: {patient: 4}}")
    file = read_parameter_file(path)
    assert "unknown option 'patient'; did you mean patients?" in message(parameters_by_notebook, file)
    moved = message(parameters_by_notebook, file, ["DATASET=folders"])
    assert "folders: unknown option 'patient'" in moved and "DATA_OPTIONS={} takes the defaults" in moved
    assert parameters_by_notebook(file, ["DATASET=folders", "DATA_OPTIONS={}"])["01_first"]["DATA_OPTIONS"] == {}


def test_a_file_may_name_the_notebooks_that_make_sense_for_it(project):
    path = project.root / "params" / "some.yaml"
    path.write_text("notebooks: [05]\ncommon: {}")
    assert [found.stem for found in select_notebooks(read_parameter_file(path).notebooks)] == ["05_loss_ablation"]
    path.write_text("notebooks: 5\ncommon: {}")
    assert "must be a list of numbers" in message(read_parameter_file, path)
