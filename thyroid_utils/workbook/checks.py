"""Look before you leap: what every notebook is going to read and train is looked up and built before the first one starts.

A notebook hands its configs to `run_all`; the few statements that make them are carried out here, with the values that the
notebook will be given, and nothing else of it. So a study needs no entry here.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from thyroid_utils.common.config import ConfigError, RunConfig
from thyroid_utils.common.errors import DataError, ParameterError
from thyroid_utils.data.phantom.patients import Settings
from thyroid_utils.data.readers import load_cases
from thyroid_utils.inference.cam import chosen_layer
from thyroid_utils.models.networks import Network
from thyroid_utils.models.weights import WeightsError
from thyroid_utils.studies.compare import FIELDS
from thyroid_utils.training.data import built_of, check_config
from thyroid_utils.workbook.notebooks import read_notebook
from thyroid_utils.workbook.parameters import declared_parameters

_TRAINS = "run_all"
_NOT_FETCHED = "imagenet"  # one missing file is told: to look for more takes half a minute each without a connection


def check_notebooks(notebooks: Sequence[Path], given: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ParameterError, with a line a problem, where networks, sizes, weights, options, losses, layers or data of a notebook
    cannot be.

    given: stem → name → value, as `parameters_by_notebook` gives them.
    """
    problems: dict[str, list[str]] = {}
    tables, seen = {}, {}
    for notebook in notebooks:
        values = {name: found.default for name, found in declared_parameters(notebook).items()} | dict(given[notebook.stem])
        for problem in [*_data_problems(values, tables), *_training_problems(notebook, values, seen)]:
            stems = problems.setdefault(problem, [])
            stems += [notebook.stem] * (notebook.stem not in stems)
    if problems:
        every = [notebook.stem for notebook in notebooks]
        told = {problem: "every notebook" if stems == every else ", ".join(stems) for problem, stems in problems.items()}
        raise ParameterError("\n".join(f"{where}: {problem}" for problem, where in told.items()))


def _data_problems(values: Mapping[str, Any], tables: dict[str, str | None]) -> Iterator[str]:
    """tables: data set, folder and options → the problem, which may be none."""
    if "DATASET" not in values:
        return
    found: dict[str, list[str]] = {}
    parts = [name for name, value in values.items() if name.endswith("_DATA") and value]  # an empty one takes DATA_OPTIONS
    for name in ["DATA_OPTIONS"] * ("DATA_OPTIONS" in values) + parts:
        asked = values["DATASET"], values.get("DATA_ROOT"), values[name]
        if repr(asked) not in tables:
            tables[repr(asked)] = _table_problem(*asked)
        if tables[repr(asked)]:
            found.setdefault(tables[repr(asked)], []).append(name)
    yield from (f"DATASET, DATA_ROOT, {', '.join(names)}: {problem}" for problem, names in found.items())


def _training_problems(notebook: Path, values: Mapping[str, Any], seen: dict[str, str]) -> Iterator[str]:
    """seen: what was built → the problem, which may be none."""
    try:
        configs = list(_configs(notebook, values))
        RunConfig(split={"ratios": values["RATIOS"]} if "RATIOS" in values else {})
    except DataError:  # of data that are read to plan a run: `_data_problems` tells it, or the notebook
        return
    except Exception as error:
        yield _told(error, values, None)
        return
    for config in configs:
        layer = values["LAYERS"].get(config.model.name, "") if config.task == "classification" and "LAYERS" in values else None
        key = f"{built_of(config)} {layer}"
        published = config.model.weights == "imagenet"
        if key not in seen and not (published and _NOT_FETCHED in seen):
            try:
                seen[key] = _layer_problem(_built(config), layer)
            except Exception as error:
                seen[key] = _told(error, values, config)
                if published and isinstance(error, WeightsError):
                    seen[_NOT_FETCHED] = ""
        if seen.get(key):
            yield seen[key]


def _built(config: RunConfig) -> Network:
    """Without memory for its values where the library can, which takes a tenth of the time."""
    try:
        with torch.device("meta"):
            return check_config(config)
    except (NotImplementedError, RuntimeError):
        return check_config(config)


def _layer_problem(network: Network, layer: str | None) -> str:
    """What keeps a notebook from explaining the map of that layer; None explains none, "" the network's own."""
    try:
        if layer is not None:
            chosen_layer(network, layer)
    except ValueError as error:
        return f"LAYERS: {network.name}: {error}"
    return ""


def _table_problem(dataset: str, root: str | None, options: Mapping[str, Any]) -> str | None:
    """What keeps a case table from being read. What reading costs (files are hashed) the notebooks need not pay again."""
    try:
        if dataset == "phantom":  # made when they are needed, which takes a while
            Settings(**{field.name: options[field.name] for field in fields(Settings) if field.name in options})
        else:
            load_cases(dataset, root or None, **options)
    except (DataError, TypeError) as error:
        return str(error)
    return None


def _configs(notebook: Path, values: Mapping[str, Any]) -> Iterator[RunConfig]:
    """The configs of every call of `run_all` that can be known before anything is trained."""
    cells = [cell for cell in read_notebook(notebook).cells if cell.cell_type == "code"]
    plain = [cell.source for cell in cells if "parameters" not in cell.metadata.get("tags", []) and "%" not in cell.source[:1]]
    statements = [statement for source in plain for statement in ast.parse(source).body]
    for place, statement in enumerate(statements):
        for call in ast.walk(statement):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == _TRAINS:
                needed = _leading_to(call.args[0], statements[:place], set(values))
                if needed is None:
                    continue
                scope = dict(values)
                try:
                    exec(compile(ast.Module(needed, []), notebook.name, "exec"), scope)
                    configs = eval(compile(ast.Expression(call.args[0]), notebook.name, "eval"), scope)
                except NameError:  # made inside a block
                    continue
                yield from configs


def _leading_to(expression: ast.expr, before: list[ast.stmt], known: set[str]) -> list[ast.stmt] | None:
    """The statements that give the names of an expression their values; None where something has to be trained for them."""
    wanted, chosen = _used(expression) - known, []
    for statement in reversed(before):
        given, changed = _assigned(statement)
        if not (given | changed) & wanted:
            continue
        if _TRAINS in _used(statement) and not isinstance(statement, ast.ImportFrom):
            return None
        chosen.insert(0, statement)
        wanted = (wanted - given) | (_used(statement) - known - given)
    return chosen


def _used(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load)}


def _assigned(statement: ast.stmt) -> tuple[set[str], set[str]]:
    """Names that a statement gives a value, and names of what it changes."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).partition(".")[0] for alias in statement.names}, set()
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    parts = [part for target in targets if target is not None for part in ast.walk(target)]
    names = {part.id for part in parts if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
    changed = {part.id for part in parts if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load)}
    return (set(), names) if isinstance(statement, ast.AugAssign) else (names, changed)


def _told(error: Exception, values: Mapping[str, Any], config: RunConfig | None) -> str:
    """A problem in a line that begins with the parameters that decide what it is about."""
    text = " ".join(str(error).split())
    if isinstance(error, ConfigError):
        field, _, problem = text.removeprefix("config: ").partition(" ")
        paths = {**FIELDS, "MODEL_OPTIONS": ("model", "options")}
        decide = [name for name, path in paths.items() if field in (".".join(path), ".".join(path[:1]))]
        told = [name for name in values if any(name.endswith(ending) for ending in decide)]
        return f"{', '.join(told) or field}: {problem}"
    if config is None:
        return f"{type(error).__name__}: {text}"
    loss = text.startswith("loss")
    about: Any = config.loss.name if loss else config.model.name
    if isinstance(error, WeightsError):
        about = config.model.weights
    elif "pixels" in text:
        about = config.size
    elif "option" in text:
        about = config.loss.options if loss else config.model.options
    told = [name for name, value in values.items() if name.isupper() and _holds(value, about)]
    return f"{', '.join(told) or config.label}: {text}"


def _holds(value: Any, part: Any) -> bool:
    """Whether a parameter's value is that part, lists it, or has it, or some of its options, under a name."""
    if isinstance(value, dict) and isinstance(part, dict):
        return value == part or any(own and own.items() <= part.items() for own in value.values() if isinstance(own, dict))
    return value == part or (isinstance(value, list) and part in value)
