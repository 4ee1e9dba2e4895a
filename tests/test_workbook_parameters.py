"""Parameter files are held to what the notebooks declare, and what they ask for is looked up before anything runs."""

from pathlib import Path

import pytest
from PIL import Image
from workbook_project import notebook, write_project

from thyroid_utils.common import paths
from thyroid_utils.common.errors import ParameterError
from thyroid_utils.training.ledger import identity
from thyroid_utils.workbook.checks import _configs, check_notebooks
from thyroid_utils.workbook.notebooks import numbered_notebooks, select_notebooks
from thyroid_utils.workbook.parameters import (
    declared_parameters,
    load_parameters,
    parameters_by_notebook,
    parse_parameters,
    read_parameter_file,
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


def test_a_parameters_cell_is_one_of_literals_and_read_with_its_comments(project):
    found = parse_parameters(
        'A = 1  # pixels, 1 to 9\nB: float = 1e-3  # 1e-5 to 0.1; the rate\nC = [\n    "x",  # one of: x, y\n]\nD = None\n'
        'ROOT = ""  # 1 to 6 folders\nOPTIONS = {}  # 1 to 6 of them'
    )
    defaults = {"A": 1, "B": 1e-3, "C": ["x"], "D": None, "ROOT": "", "OPTIONS": {}}
    assert {name: parameter.default for name, parameter in found.items()} == defaults
    assert (found["A"].low, found["A"].high) == (1, 9) and (found["B"].low, found["B"].high) == (1e-5, 0.1)
    assert found["C"].options == ("x", "y") and found["D"].options == ()
    assert found["ROOT"].low is found["OPTIONS"].low is None, "a range is of numbers"
    assert "SIZE is no literal" in message(parse_parameters, "SIZE = 2 * WIDTH")
    assert "only NAME = literal" in message(parse_parameters, "import os")
    twice = notebook("Twice", "A = 1")
    twice.cells[-1].metadata = {"tags": ["parameters"]}
    write_project(project.root, n06_twice=twice)
    assert "2 cells are tagged" in message(declared_parameters, project.root / "notebooks" / "06_twice.ipynb")


WRONG = [
    ("common: {SIEZ: 3}", "common: ", "SIEZ", "any notebook", "did you mean SIZE"),
    ("05_loss_ablation: {LOS: dice}", "05_loss_ablation", "LOS ", "did you mean LOSS"),
    ("05_loss_ablation: {SHARE: 0.5}", "SHARE", "the notebook 05_loss_ablation"),
    ("common: {QQQ: 3}", "QQQ", "known: ", "SEEDS"),
    ("05_loss_abaltion: {LOSS: dice}", "05_loss_abaltion", "did you mean 05_loss_ablation"),
    ("common: {SIZE: 2024-01-01}", "must be a whole number like 64, found text '2024-01-01'"),
    ("common: {LIMIT: " + 3000 * "[" + 3000 * "]" + "}", "nested too deeply"),
    ("common: {SIZE: " + 5000 * "1" + "}", "Exceeds the limit"),
    ("common: {SIZE: " + 4000 * "1" + "}", "must lie in 32 to 1024"),
    ("common: {SEEDS: &all [*all]}", "Circular reference"),
    ("common: {SEEDS: !!set {1, 2}}", "give plain values"),
    ("common: {SEEDS: [1, 2, 1]}", "must name each once, found 1 twice"),
    ("common: {SIZE: 2000}", "SIZE of 01_data_exploration must lie in 32 to 1024, found 2000"),
    ("common: {SIZE: null}", "found nothing"),
    ("common: {SHARE: .inf}", "SHARE of 01_data_exploration must be a number"),
    ("common: {SEEDS: 3}", "must be a list"),
    ("common: {SEEDS: []}", "SEEDS of 01_data_exploration must hold at least one value, like [0]"),
    ("common: {LIMIT: many}", "LIMIT of 01_data_exploration must lie in 1 to 100, found 'many'"),
    ("common: {DATASET: dti}", "must be one of phantom, ddti; found 'dti'; did you mean ddti?"),
    ("common: {NAMES: [unet, unett]}", "must be one of unet, unet++, fpn; found 'unett'"),
    ("common: {FAST: 1}", "must be true or false"),
    (
        "common: {SIZE: big}",
        "test.yaml, common: SIZE of 01_data_exploration, 05_loss_ablation must be a whole number like 64, found",
    ),
    ("common:\n  SIZE: 1\n  SIZE: 2\n", "line 3: the key 'SIZE' is given twice"),
    ("common:\n  SIZE: [1, 2\ntitle: x\n", "line 3"),
    ("- a\n- b\n", "expected keys title, common"),
    ("common: 3\n", "common must hold NAME: value lines"),
    ("notebooks: 5\n", "must be a list of numbers"),
    ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
]


@pytest.mark.parametrize("text, parts", [(text, parts) for text, *parts in WRONG])
def test_a_wrong_file_is_one_line_that_says_what_is_wrong_and_what_is_near(project, text, parts):
    told = message(project, text)
    assert "\n" not in told and len(told) < 400 and all(part in told for part in parts), told[:300]


def test_set_wins_over_the_file_or_is_an_error_and_data_root_is_absolute(project, tmp_path, monkeypatch):
    bad = {"SIEZ=3": "did you mean SIZE", "SIZE": "expected KEY=VALUE", "09.SIZE=3": "no notebook '09'"}
    for setting, expected in (bad | {"SIZE=[": "--set SIZE=[, line 1: ", "SIZE=1": "must lie in 32 to 1024"}).items():
        assert expected in message(project, settings=[setting])
    merged = project("common: &all\n  SIZE: 128\n05_loss_ablation:\n  <<: *all\n  SIZE: 96\n")
    assert merged["05_loss_ablation"] == {"SIZE": 96}
    assert project("common: {SHARE: 1, LIMIT: null}")["01_data_exploration"] == {"SHARE": 1, "LIMIT": None}
    assert project(settings=["01.DATA_ROOT="])["01_data_exploration"] == {"DATA_ROOT": ""}, "an empty text, as SEGMENTER= is"
    settings = ["SIZE=96", "05.LOSS=focal", "01_data_exploration.SEEDS=[1, 2]"]
    given = project("common: {SIZE: 128}\n05_loss_ablation: {SIZE: 200}", settings)
    assert given == {"01_data_exploration": {"SIZE": 96, "SEEDS": [1, 2]}, "05_loss_ablation": {"SIZE": 96, "LOSS": "focal"}}
    (tmp_path / "here" / "ddti").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert project(data_root=Path("ddti"))["01_data_exploration"]["DATA_ROOT"] == str(tmp_path / "here" / "ddti")
    assert project("common: {DATA_ROOT: data/x}")["01_data_exploration"]["DATA_ROOT"] == str(tmp_path / "data" / "x")
    assert "no such folder" in message(project, data_root=Path("missing"))


def test_files_of_another_encoding_and_notebooks_by_number_in_their_order(project):
    assert project("\ufeffcommon: {SIZE: 128}")["05_loss_ablation"] == {"SIZE": 128}, "as editors of Windows save it"
    (project.root / "params" / "test.yaml").write_bytes("title: Schilddrüse".encode("latin-1"))
    assert "UTF-8" in message(read_parameter_file, project.root / "params" / "test.yaml")
    assert "holds test.yaml" in message(read_parameter_file, project.root / "params" / "tset.yaml")
    assert [path.stem for path in select_notebooks(["5", "01"])] == ["01_data_exploration", "05_loss_ablation"]
    assert len(select_notebooks([])) == 2
    assert "there are 01_data_exploration, 05_loss_ablation" in message(select_notebooks, ["07"])
    path = project.root / "params" / "some.yaml"
    path.write_text("notebooks: [05]\ncommon: {}")
    assert [found.stem for found in select_notebooks(read_parameter_file(path).notebooks)] == ["05_loss_ablation"]
    for path in (project.root / "notebooks").iterdir():
        path.unlink()
    assert "no notebooks" in message(numbered_notebooks)


def test_options_follow_the_data_set_and_unknown_ones_stop_before_anything_runs(project):
    parameters = 'DATASET = "phantom"  # a reader\nDATA_OPTIONS = {"patients": 4}  # options of the reader'
    write_project(project.root, n01_data_exploration=notebook("First", parameters=parameters))
    text = "common: {DATASET: phantom, DATA_OPTIONS: {patient: 4}}"
    assert "unknown option 'patient'; did you mean patients?" in message(project, text)
    moved = message(project, text, ["DATASET=folders"])
    assert "folders: unknown option 'patient'" in moved and "DATA_OPTIONS={} takes the defaults" in moved
    assert project(text, ["DATASET=folders", "DATA_OPTIONS={}"])["01_data_exploration"]["DATA_OPTIONS"] == {}
    parameters = (
        'DATASET = "phantom"  # a reader\nDATA_OPTIONS = {"patients": 4}  # its options\nSEGMENTER_DATA = {"patients": 9}'
    )
    write_project(project.root, n01_data_exploration=notebook("First", parameters=parameters))
    found = project("common: {DATASET: manifest, DATA_OPTIONS: {having: mask}}")["01_data_exploration"]
    assert found["SEGMENTER_DATA"] == {} and found["DATA_OPTIONS"] == {"having": "mask"}
    assert "SEGMENTER_DATA" not in project("common: {DATA_OPTIONS: {patients: 5}}")["01_data_exploration"], "its own default fits"
    told = message(project, "common: {DATASET: manifest, SEGMENTER_DATA: {patients: 4}}")
    assert told.startswith("SEGMENTER_DATA: manifest: unknown option 'patients'")


def test_in_the_lab_a_parameter_file_is_loaded_by_name_and_in_a_report_nothing_is(monkeypatch, capsys):
    monkeypatch.delenv("THYROID_REPORT_DIR", raising=False)
    assert load_parameters("", "03") == {}
    values = load_parameters("quick", "03")
    assert values["DATASET"] == "phantom" and values["EPOCHS"] == 6 and "MEASURED" not in values
    assert "params/quick.yaml sets DATASET, " in capsys.readouterr().out
    with pytest.raises(ParameterError, match=r"no such parameter file; its folder holds .*quick\.yaml"):
        load_parameters("quikc", "03")
    monkeypatch.setenv("THYROID_REPORT_DIR", "somewhere")
    assert load_parameters("quick", "03") == {}


def told(*settings: str, name: str = "smoke") -> list[str]:
    """The problems, a line each."""
    file = read_parameter_file(paths.params_dir() / f"{name}.yaml")
    try:
        check_notebooks(select_notebooks(file.notebooks), parameters_by_notebook(file, settings))
    except ParameterError as problems:
        return str(problems).splitlines()
    return []


@pytest.mark.parametrize("name", ["smoke", "quick", "phantoms"])
def test_what_can_be_trained_passes(name):
    assert told(name=name) == []


@pytest.mark.parametrize("name", ["quick", "phantoms", "ddti", "own"])
def test_06_and_07_take_the_classifiers_that_03_compares_and_a_segmenter_of_04(name):
    given, made = parameters_by_notebook(read_parameter_file(paths.params_dir() / f"{name}.yaml")), {}
    for path in select_notebooks(["03", "04", "05", "06", "07", "10"]):
        values = {key: found.default for key, found in declared_parameters(path).items()} | given[path.stem]
        for config in _configs(path, values):
            made.setdefault((path.stem[:2], config.task), []).append(str(identity(config)))
    for number in ("06", "07"):
        again = [told for told in made["03", "classification"] if told not in made[number, "classification"]]
        assert [told for told in made["03", "classification"] if told not in again] == made[number, "classification"]
        assert all("'weights': 'none'" in told for told in again), "03 alone trains some from scratch, too"
        assert set(made[number, "segmentation"]) <= set(made["04", "segmentation"])
    if name in ("ddti", "own"):
        assert set(made["04", "segmentation"]) & set(made["05", "segmentation"]), "one of the losses is that of 04"
    if name == "ddti":  # where the images are those of 03, too
        assert made["10", "classification"] == made["06", "classification"]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("MODELS=[resnet18]", "04_segmenter_comparison: MODEL_OPTIONS: are given for unet, which is not compared"),
        ("04.MODELS=[uney, unet, segnet]", "04_segmenter_comparison: MODELS: model 'uney' is unknown; did you mean unet?"),
        ("10.JOINT=unet", "10_dual_stage: SEGMENTER, JOINT: model unet: has no encoder"),
        ("04.MODEL_OPTIONS={unet: {wdths: [8]}}", "04_segmenter_comparison: MODEL_OPTIONS: model unet: no option 'wdths'"),
        ("04.MODEL_OPTIONS={segnt: {}}", "04_segmenter_comparison: MODEL_OPTIONS: are given for segnt"),
        ("03.LOSS_OPTIONS={gama: 2}", "03_classifier_comparison: LOSS_OPTIONS: loss cross_entropy: no option 'gama'"),
        ("07.LAYERS={resnet18: layer9}", "07_error_analysis: LAYERS: resnet18: ResNet: no layer 'layer9'; inside it there are: "),
        ("05.WEIGHTS=nowhere.pth", "05_loss_ablation: WEIGHTS: weights must be imagenet, none or a file; there is no file"),
        ("02.RATIOS=[0.9, 0.2, 0.2]", "02_preprocessing: RATIOS: must be above 0 and sum to 1; found (0.9, 0.2, 0.2)"),
        ("08.FOLDS=12", "--set 08.FOLDS=12: FOLDS of 08_module_ablation must lie in 0 to 10, found 12"),
        ("02.DATA_OPTIONS={size: 3}", "02_preprocessing: DATASET, DATA_ROOT, DATA_OPTIONS: phantom: size is 3, expected"),
        ("06.MODELS=['timm:mixer_b16_224']", "06_grad_cam: SIZE: timm:mixer_b16_224: takes images of 224×224 pixels only"),
    ],
)
def test_what_cannot_be_names_notebook_parameter_and_remedy(setting, expected):
    found = told(setting)
    assert len(found) == 1 and found[0].startswith(expected), found


def test_a_readers_options_are_tried_on_the_data(tmp_path):
    for name in ("benign/a_1.png", "malignant/b_1.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("L", (80, 80)).save(tmp_path / name)
    own = ("DATASET=folders", f"DATA_ROOT={tmp_path}")
    found = told(*own, "DATA_OPTIONS={patient_pattern: (}", name="own")[0]
    assert "DATASET, DATA_ROOT, DATA_OPTIONS: folders: patient_pattern '(' is no" in found
    nowhere = told(own[0], f"DATA_ROOT={tmp_path / 'nowhere'}", name="own")
    assert len(nowhere) == 1 and nowhere[0].startswith("every notebook: DATASET") and "nowhere" in nowhere[0], nowhere
