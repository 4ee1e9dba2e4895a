"""Parameter files, held strictly to what the notebooks declare.

papermill accepts a misspelt parameter with a mere warning, so every key, type and value is checked here before anything runs.
"""

import ast
import io
import json
import math
import os
import re
import reprlib
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from thyroid_utils.common import paths
from thyroid_utils.common.errors import DataError, ParameterError, nearest
from thyroid_utils.common.words import listed
from thyroid_utils.data.readers import READERS, check_options

_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a mapping",
    type(None): "nothing",
}
# What a parameter file says beside values: key → kind, and what it must do, in words.
_HEAD = {"title": (str, "be text"), "description": (str, "be text"), "notebooks": (list, "be a list of numbers like [01, 02]")}


@dataclass(frozen=True)
class Parameter:
    """One name of a notebook's parameters cell.

    `default` None accepts any type. `options` are the values that the comment allows (`one of: a, b`, or all of them in
    `one of: READERS`), `low` and `high` its range (`LOW to HIGH`, ends included); both hold for the elements of a list.
    """

    name: str
    default: Any
    comment: str = ""
    options: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None

    def problem(self, value: Any) -> str | None:
        """What is wrong with `value`, as a phrase, or None."""
        if value is None and (self.default is None or re.search(r"\bNone\b", self.comment)):
            return None
        if self.default is not None and not _same_kind(value, self.default):
            return f"must be {_kind(self.default)} like {self.default!r}, found {_kind(value)} {reprlib.repr(value)}"
        if self.default and isinstance(value, list) and not value:
            return f"must hold at least one value, like {self.default!r}"
        elements = value if isinstance(value, list) else [value]
        if self.name == "SEEDS" or all(isinstance(element, str) for element in elements):
            twice = [element for place, element in enumerate(elements) if element in elements[:place]]
            if twice:
                return f"must name each once, found {twice[0]!r} twice"
        for element in elements:
            if self.options and str(element) not in self.options:
                return f"must be one of {', '.join(self.options)}; found {element!r}; {nearest(element, self.options)}"
            if self.low is not None and not (_is_number(element) and self.low <= element <= self.high):
                return f"must lie in {self.low:g} to {self.high:g}, found {reprlib.repr(element)}"
        return None


@dataclass(frozen=True)
class ParameterFile:
    """A file `params/NAME.yaml`: values for every notebook that knows them (`common`) and for one notebook (`sections`).

    `notebooks`: the numbers of those that make sense for this run; empty for all.
    """

    path: Path
    title: str
    description: str = ""
    common: dict[str, Any] = field(default_factory=dict)
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    notebooks: tuple[str, ...] = ()


def declared_parameters(notebook: Path) -> dict[str, Parameter]:
    """What the cell tagged `parameters` declares: name → Parameter. Raises ParameterError where it holds more than literals."""
    # Here, because it brings papermill, two seconds that a notebook in the lab need not wait for.
    from thyroid_utils.workbook.notebooks import read_notebook

    cells = read_notebook(notebook).cells
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) > 1:
        raise ParameterError(f"{notebook.name}: {len(tagged)} cells are tagged parameters; keep one")
    return parse_parameters(tagged[0].source, notebook.name) if tagged else {}


def parse_parameters(source: str, where: str = "parameters cell") -> dict[str, Parameter]:
    """The literals of a parameters cell with the comment behind each: name → Parameter."""
    found = {}
    comments = _comments(source)
    for node in ast.parse(source).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if not isinstance(target, ast.Name):
            raise ParameterError(f"{where}: the parameters cell may hold only NAME = literal; found {ast.unparse(node)!r}")
        try:
            default = ast.literal_eval(node.value)
        except (ValueError, TypeError):
            raise ParameterError(f"{where}: {target.id} is no literal; compute it in a later cell") from None
        comment = " ".join(comments[line] for line in range(node.lineno, node.end_lineno + 1) if line in comments)
        found[target.id] = Parameter(target.id, default, comment, _options(comment), *_range(comment, default))
    return found


def read_parameter_file(path: Path) -> ParameterFile:
    """Read `params/NAME.yaml`. Raises ParameterError (with the line) for broken YAML, a duplicate key or an unknown section."""
    from thyroid_utils.workbook.notebooks import numbered_notebooks  # with papermill

    if not path.is_file():
        others = ", ".join(sorted(other.name for other in path.parent.glob("*.yaml")))
        raise ParameterError(f"{path}: no such parameter file; its folder holds {others or 'none'}")
    try:
        content = _parsed(path.read_text(encoding="utf-8-sig"), f"{path}")
    except UnicodeDecodeError:
        raise ParameterError(f"{path}: not UTF-8 text; save it as UTF-8") from None
    if not isinstance(content, dict):
        raise ParameterError(f"{path}: expected keys title, common and one section per notebook; found {_kind(content)}")
    stems = [notebook.stem for notebook in numbered_notebooks()]
    for key, value in content.items():
        if key not in ("common", *_HEAD, *stems):
            raise ParameterError(f"{path}: unknown section {key!r}; {nearest(key, [*_HEAD, 'common', *stems])}")
        kind, told = _HEAD.get(key, (dict, "hold NAME: value lines"))
        if value is not None and not isinstance(value, kind):
            raise ParameterError(f"{path}: {key} must {told}, found {_kind(value)}")
    return ParameterFile(
        path=path,
        title=content.get("title") or path.stem,
        description=content.get("description") or "",
        common=content.get("common") or {},
        sections={stem: content[stem] for stem in stems if content.get(stem)},
        notebooks=tuple(str(number) for number in content.get("notebooks") or ()),
    )


def _parsed(text: str, where: str) -> Any:
    try:
        found = yaml.load(text, _StrictLoader)
        json.dumps(found)
        return found
    except (RecursionError, TypeError, ValueError) as error:  # also a number of thousands of digits
        told = "nested too deeply" if isinstance(error, RecursionError) else str(error).partition(";")[0]
        raise ParameterError(f"{where}: {told}; give plain values: numbers, text, true, false, lists and mappings") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ParameterError(f"{where}{line}: {getattr(error, 'problem', None) or 'broken YAML'}") from None


def parameters_by_notebook(
    file: ParameterFile, settings: Sequence[str] = (), data_root: Path | None = None
) -> dict[str, dict[str, Any]]:
    """What each notebook is given: stem → name → value, checked against every notebook's parameters cell.

    `settings` are `KEY=VALUE` (or `NOTEBOOK.KEY=VALUE`) from the command line, which win over the file; `data_root` becomes
    DATA_ROOT. A relative DATA_ROOT in the file is seen from the project root. Raises ParameterError with one line per problem.
    """
    from thyroid_utils.workbook.notebooks import numbered_notebooks

    declared = {path.stem: declared_parameters(path) for path in numbered_notebooks()}
    given: dict[str, dict[str, Any]] = {stem: {} for stem in declared}
    problems: list[str] = []

    def give(where: str, values: Mapping[str, Any], stems: Sequence[str]) -> None:
        for name, value in values.items():
            knowing = [stem for stem in stems if name in declared[stem]]
            if not knowing:
                of = f"the notebook {stems[0]}" if len(stems) == 1 else "any notebook"
                known = sorted({parameter for stem in stems for parameter in declared[stem]})
                problems.append(f"{where}: {name} is no parameter of {of}; {nearest(name, known)}")
            found: dict[str, list[str]] = {}
            for stem in knowing:
                value = "" if value is None and isinstance(declared[stem][name].default, str) else value  # NAME= is empty text
                problem = declared[stem][name].problem(value)
                if problem:
                    found.setdefault(problem, []).append(stem)
                given[stem][name] = value
            problems.extend(f"{where}: {name} of {', '.join(stems)} {problem}" for problem, stems in found.items())

    everywhere = list(declared)
    give(f"{file.path.name}, common", file.common, everywhere)
    for stem, values in file.sections.items():
        give(f"{file.path.name}, {stem}", values, [stem])
    for values in given.values():
        if isinstance(values.get("DATA_ROOT"), str) and values["DATA_ROOT"]:
            values["DATA_ROOT"] = str(paths.resolve_in_project(values["DATA_ROOT"]))
    if data_root is not None:
        if not data_root.is_dir():
            raise ParameterError(f"--data-root {data_root}: no such folder")
        give("--data-root", {"DATA_ROOT": str(data_root.resolve())}, everywhere)
    for setting in settings:
        name, value, stems = parse_setting(setting, everywhere)
        give(f"--set {setting[:80]}", {name: value}, stems)
    for stem, parameters in declared.items():
        problems.extend(_options_of_the_reader(parameters, given[stem]))
    if problems:
        raise ParameterError("\n".join(dict.fromkeys(problems)))
    return given


def _options_of_the_reader(declared: Mapping[str, Parameter], given: dict[str, Any]) -> Iterator[str]:
    """Options follow the data set: where DATASET is another than the notebook's own, options that nobody gave are left empty in
    `given`. Yields what the reader does not take of those that stay, DATA_OPTIONS and the like of a part (SEGMENTER_DATA)."""
    if "DATASET" not in declared:
        return
    own = declared["DATASET"].default
    dataset = given.get("DATASET", own)
    for name, parameter in declared.items():
        if not isinstance(parameter.default, dict) or not (name == "DATA_OPTIONS" or name.endswith("_DATA")):
            continue
        if dataset != own:
            given.setdefault(name, {})
        options = given.get(name, parameter.default)
        if dataset in READERS and isinstance(options, dict):
            try:
                check_options(dataset, options)
            except DataError as error:
                yield f"{name}: {error}; {name}={{}} takes the defaults"


def load_parameters(name: str, notebook: str) -> dict[str, Any]:
    """What `params/NAME.yaml` gives a notebook, for `globals().update(...)` in JupyterLab.

    name: of the file without its ending; empty for none. notebook: its number or stem. In a report nothing is given, as the
    runner has given what it was asked for. Raises ParameterError for an unknown name, or a file that the notebooks do not fit.
    """
    if not name or "THYROID_REPORT_DIR" in os.environ:
        return {}
    from thyroid_utils.workbook.notebooks import select_notebooks

    given = parameters_by_notebook(read_parameter_file(paths.params_dir() / f"{name}.yaml"))
    values = given[select_notebooks([notebook])[0].stem]
    print(f"params/{name}.yaml sets {listed(values)}.")
    return values


def parse_setting(setting: str, stems: Sequence[str]) -> tuple[str, Any, Sequence[str]]:
    """Name, value and notebooks of `KEY=VALUE` or `NOTEBOOK.KEY=VALUE`; of those in `stems`. Raises ParameterError."""
    key, separator, text = setting.partition("=")
    section, dot, name = key.strip().rpartition(".")
    if not separator or not name:
        raise ParameterError(f"--set {setting}: expected KEY=VALUE or NOTEBOOK.KEY=VALUE")
    try:
        value = _parsed(text, f"--set {setting}")
    except ParameterError as error:
        remedy = r"put text with brackets, commas or backslashes in single quotes, such as {patient_pattern: '^(\d+)_'}"
        raise ParameterError(f"{error}; {remedy}") from None
    if not dot:
        return name, value, stems
    matching = [stem for stem in stems if section in (stem, stem[:2])]
    if not matching:
        raise ParameterError(f"--set {setting}: no notebook {section!r}; {nearest(section, stems)}")
    return name, value, matching


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice.

    It reads 1e-3 as the number it is (YAML 1.1 makes it text), and a date as text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for place, key in enumerate(keys):
            if key.value in [earlier.value for earlier in keys[:place]]:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} is given twice", key.start_mark)
        return super().construct_mapping(node, deep)


_StrictLoader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:timestamp"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _comments(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}


def _options(comment: str) -> tuple[str, ...]:
    listed = re.search(r"\bone of:\s*([^;()]+?)(?:\.\s|\.$|[;(]|$)", comment)
    if not listed:
        return ()
    if listed.group(1).strip() == "READERS":
        return tuple(READERS)
    return tuple(option.strip(" '\"`") for option in re.split(r",\s*(?:or\s+)?|\s+or\s+", listed.group(1)) if option.strip())


def _range(comment: str, default: Any) -> tuple[float | None, float | None]:
    elements = default if isinstance(default, list) else [default]
    stated = re.search(r"(?<![\w.-])(-?\d+(?:\.\d+)?(?:e-?\d+)?) to (-?\d+(?:\.\d+)?(?:e-?\d+)?)(?![\w-])", comment)
    if not stated or any(element is not None and not _is_number(element) for element in elements):
        return None, None
    return float(stated.group(1)), float(stated.group(2))


def _is_number(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and math.isfinite(value))


def _same_kind(value: Any, default: Any) -> bool:
    if _is_number(default):
        return _is_number(value) and (isinstance(default, float) or isinstance(value, int))
    if not isinstance(default, list):
        return isinstance(value, type(default))
    models = [element for element in default if element is not None]
    return isinstance(value, list) and all(not models or any(_same_kind(element, model) for model in models) for element in value)


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), type(value).__name__)
