"""An output folder: the reports that lie in it, and how a new one takes the place of the last.

A notebook is worked on in a hidden folder `.unfinished-STEM`. One rename, to `.ready-STEM`, decides that its report counts; then
its files are moved into place, the page last and after the old page has gone, so that no page lies beside the figures of another
run. Whatever is killed, the next call finishes what was decided and clears up the rest (`recover`).
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock
import nbformat

from thyroid_utils.common.errors import RunError
from thyroid_utils.common.files import content_key, file_hash, write_text
from thyroid_utils.workbook.pages import Scrubber
from thyroid_utils.workbook.report import provenance, render_index, render_report

FORMAT = 5  # of run.json; raised when its entries change
_UNFINISHED, _READY = ".unfinished-", ".ready-"
_FAILED = "-failed"  # of the page of a run that failed, beside the last good report
_SUFFIXES = {"figures": (".png", ".pdf"), "tables": (".csv", ".tex")}


class ReportFolder:
    """`document` is what run.json holds, `records` its entry a notebook.

    A record whose notebook was begun again has under `rerun` what became of that: its status, error and page. It stays what it
    was, with its report, until a run of the notebook finishes. `files`: the hash of each file of a report, as it was written.
    """

    def __init__(self, path: Path, scrubber: Scrubber) -> None:
        self.path, self.scrubber = path, scrubber
        found = _read_json(path / "run.json")
        self.document: dict[str, Any] = found if found.get("format") == FORMAT else {}

    @property
    def records(self) -> dict[str, Any]:
        return self.document.get("notebooks", {})

    @property
    def metrics(self) -> dict[str, Any]:
        return _read_json(self.path / "metrics.json")

    def is_whole(self, record: Mapping[str, Any]) -> bool:
        """Whether a finished report lies here as it was written, and no later run of its notebook came to a bad end."""
        lies = {"metrics.json", *_files(record)} == set(record["files"]) and record["files"] == self._hashes(record)
        return lies and record["status"] == "finished" and not record["rerun"]

    def staging(self, stem: str) -> Path:
        """An empty hidden folder to work in."""
        folder = self.path / f"{_UNFINISHED}{stem}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def stage(self, node: nbformat.NotebookNode, record: dict[str, Any], staging: Path) -> None:
        """Complete the files of one notebook in its hidden folder."""
        for text in [*staging.glob("tables/*.csv"), *staging.glob("tables/*.tex"), *staging.glob("metrics.json")]:
            write_text(text, self.scrubber.text(text.read_text(encoding="utf-8")))
        node, stem = self.scrubber.anything(node), record["stem"]
        write_text(staging / f"{stem}.ipynb", nbformat.writes(node) + "\n")
        metrics = _read_json(staging / "metrics.json").get(stem, {})
        write_text(staging / f"{stem}.html", self._page(record, node, metrics))
        write_text(staging / "record.json", _json(record))

    def install(self, staging: Path, stem: str) -> None:
        """Let a staged report take the place of the notebook's last one."""
        metrics = self.metrics | {stem: _read_json(staging / "metrics.json").get(stem, {})}
        known = {name: values for name, values in metrics.items() if name in self.document["known"]}
        write_text(staging / "metrics.json", _json(self.scrubber.anything(known)))
        ready = self.path / f"{_READY}{stem}"
        os.replace(staging, ready)
        self._settle(ready)

    def keep_beside(self, staging: Path, record: Mapping[str, Any]) -> None:
        """Keep the page of a failed run beside the last good report, which is marked."""
        stem, failed = record["stem"], f"{record['stem']}{_FAILED}"
        node = nbformat.read(staging / f"{stem}.ipynb", as_version=4)
        write_text(self.path / f"{failed}.ipynb", nbformat.writes(node) + "\n")
        write_text(self.path / f"{failed}.html", self._page({**record, "stem": failed, "good": f"{stem}.html"}, node, {}))
        self._mark(stem, "failed", error=record["error"], page=f"{failed}.html")
        self.write_index()
        shutil.rmtree(staging)

    def _mark(self, stem: str, status: str, **told: Any) -> None:
        """Say on a report's page what became of the run that should have replaced it."""
        self.records[stem]["rerun"].update(status=status, before=None, **told)
        self._write_page(stem)

    def close(self, status: str) -> None:
        """Clear up and write what is said of the run as a whole."""
        for folder in self.path.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(folder, ignore_errors=True)
        for stem, record in self.records.items():
            begun_again = record["rerun"]
            if begun_again and begun_again["status"] == "waiting":
                record["rerun"] = begun_again.get("before")  # what an earlier run left is still so
            elif begun_again and begun_again["status"] == "running":
                self._mark(stem, "interrupted")
            record["status"] = {"waiting": "not run", "running": "interrupted"}.get(record["status"], record["status"])
        self.document["status"] = status
        self.write_index()

    def recover(self) -> None:
        """Finish what a killed run had decided, clear up the rest, and say that it was interrupted."""
        for ready in sorted(self.path.glob(f"{_READY}*")):
            if self.document and (ready / "record.json").is_file():
                self._settle(ready)
            shutil.rmtree(ready, ignore_errors=True)
        if self.document.get("status") == "running":
            self.close("interrupted")

    def write_index(self) -> None:
        """run.json first: it marks the folder as one of this workbook."""
        write_text(self.path / "run.json", _json(self.scrubber.anything(self.document)))
        write_text(self.path / "index.html", render_index(self.document, self.metrics, self.path))

    def _settle(self, ready: Path) -> None:
        """Move the files of a report into place, remove what an earlier one left, and link its neighbours to it."""
        record = _read_json(ready / "record.json")
        stem, files = record["stem"], _files(record)
        renamed = {other for other in self.records if other[:2] == stem[:2] and other not in self.document["known"]}
        left = {file for other in {stem, *renamed} & set(self.records) for file in _files(self.records[other])}
        left |= {f"{stem}{_FAILED}.{kind}" for kind in ("ipynb", "html")}
        if (ready / f"{stem}.html").is_file():
            (self.path / f"{stem}.html").unlink(missing_ok=True)
        for file in ["metrics.json", *files]:
            if (ready / file).is_file():  # else it is in place, and this is a second attempt
                (self.path / file).parent.mkdir(exist_ok=True)
                os.replace(ready / file, self.path / file)
        for file in left - set(files):
            (self.path / file).unlink(missing_ok=True)
        found = {name: known for name, known in self.records.items() if name not in renamed} | {stem: record}
        self.document["notebooks"] = {name: found[name] for name in sorted(found)}
        record["files"] = self._hashes(record)
        for neighbour in self._neighbours(stem).values():
            if neighbour:
                self._write_page(neighbour["stem"])
        self.write_index()
        shutil.rmtree(ready)

    def _write_page(self, stem: str) -> None:
        node = nbformat.read(self.path / f"{stem}.ipynb", as_version=4)
        metrics = self.metrics.get(stem, {})
        page = write_text(self.path / f"{stem}.html", self._page(self.records[stem], node, metrics))
        self.records[stem]["files"][page.name] = file_hash(page)

    def _hashes(self, record: Mapping[str, Any]) -> dict[str, str]:
        hashes = {"metrics.json": content_key(self.metrics.get(record["stem"]))}
        for file in _files(record):
            with suppress(OSError):
                hashes[file] = file_hash(self.path / file)
        return hashes

    def _page(self, record: Mapping[str, Any], node: nbformat.NotebookNode, metrics: dict[str, Any]) -> str:
        return render_report(node, record, self.document, self._neighbours(record["stem"]), provenance(metrics))

    def _neighbours(self, stem: str) -> dict[str, Any]:
        """The records of the reports before and after one."""
        made = [other for other, record in self.records.items() if record["status"] in ("finished", "failed")]
        before, after = [other for other in made if other < stem], [other for other in made if other > stem]
        return {"previous": self.records[before[-1]] if before else None, "next": self.records[after[0]] if after else None}


@contextmanager
def only_process(folder: Path, stems: Sequence[str]) -> Iterator[None]:
    """Make the output folder and hold it. Raises RunError where it cannot be written, holds what is no report, or another process
    holds it."""
    lock = filelock.FileLock(folder / ".lock")
    try:
        names = ["index.html", *(f"{stem}.{suffix}" for stem in stems for suffix in ("ipynb", "html"))]
        foreign = ", ".join(name for name in names if (folder / name).exists())
        if foreign and not (folder / "run.json").exists():
            raise RunError(f"{folder}: {foreign} would be replaced, and no run wrote it; name another folder with --out")
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise RunError(f"{folder}: another run is writing this folder; wait for it or name another one with --out") from None
    except OSError as error:
        raise RunError(f"{folder}: the output folder cannot be written ({error.strerror}); name another one with --out") from None
    try:
        yield
    finally:
        lock.release()


def recover_folders(folders: Iterable[Path]) -> None:
    """Those of runs that were killed say so, and have what was decided; one that a process holds or nobody may write is left."""
    for folder in folders:
        if _read_json(folder / "run.json").get("status") == "running":
            lock = filelock.FileLock(folder / ".lock")
            try:
                with lock.acquire(timeout=0):
                    ReportFolder(folder, Scrubber()).recover()
            except (filelock.Timeout, OSError):
                continue


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or spoilt by another program: what can be made again is
        return {}
    return content if isinstance(content, dict) else {}


def _files(record: Mapping[str, Any]) -> list[str]:
    """What a record's notebook leaves in the output folder, seen from there; never a file elsewhere, whatever the record says."""
    recorded = [
        f"{kind}/{Path(entry['file']).name}{suffix}"
        for kind, suffixes in _SUFFIXES.items()
        for entry in record[kind]
        for suffix in suffixes
    ]
    return [*dict.fromkeys(recorded), f"{record['stem']}.ipynb", f"{record['stem']}.html"]
