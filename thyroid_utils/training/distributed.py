"""One run on several devices, by Lightning's DDP in processes of their own.

The calling process may be a notebook, which cannot be started again as a script, and may already use a GPU, which it could
not share with a fork. So a fresh process is started for the epochs, Lightning starts the others, and the run's folder is what
passes between them: config in, states out.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import torch

from thyroid_utils.common.config import RunConfig
from thyroid_utils.common.errors import TrainingError
from thyroid_utils.common.files import write_text
from thyroid_utils.common.progress import Progress
from thyroid_utils.training.data import assemble, split_data
from thyroid_utils.training.ledger import FAILURE
from thyroid_utils.training.loop import fit_epochs
from thyroid_utils.training.state import choose_device, read_checkpoint, repeatable

_MARK = "\x1eprogress "


def fit_on_several(folder: Path, progress: Progress) -> None:
    """Train the run of a folder that holds its `config.json`, on as many devices as that says.

    Raises:
        TrainingError: training stopped; the message is that of the process in which it did.
    """
    failure = folder / FAILURE
    failure.unlink(missing_ok=True)
    command = [sys.executable, "-m", "thyroid_utils.training.distributed", str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "encoding": "utf-8"}
    with subprocess.Popen(command, **pipes, start_new_session=True) as process:
        try:
            for line in process.stdout:
                if line.startswith(_MARK):
                    done, total = line.removeprefix(_MARK).split()
                    progress(int(done), int(total))
                else:
                    print(line, end="", flush=True)
            process.wait()
        finally:  # leave none of the group behind: one that failed may have left the others waiting for it
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        message = (
            f"{folder}: a process of the training on several devices ended with code {process.returncode}; "
            "its messages are above; run again to go on, or set training.devices to 1"
        )
        with contextlib.suppress(OSError, ValueError):
            message = json.loads(failure.read_text(encoding="utf-8"))["message"]
        failure.unlink(missing_ok=True)
        raise TrainingError(message)


def main(folder: Path) -> int:
    """What each of the processes does. Returns the exit code."""
    config = RunConfig.from_json((folder / "config.json").read_text(encoding="utf-8"))
    device = choose_device(config.training)
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))  # else every process would take memory of the first GPU
    try:
        with repeatable(device):
            assembly = assemble(config, split_data(config), folder, device)
            fit_epochs(assembly, read_checkpoint(assembly.resume), device, _tell)
    except (TrainingError, ValueError) as error:
        write_text(folder / FAILURE, json.dumps({"message": str(error)}))
        return 1
    return 0


def _tell(done: int, total: int) -> None:
    print(f"{_MARK}{done} {total}", flush=True)


def _end_with_caller() -> None:
    """The calling process holds the other end of the standard input, which all processes share; it closes however that ends."""
    while os.read(0, 1):  # not by sys.stdin, whose lock this thread would hold when Python ends
        pass
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_caller, daemon=True).start()
    sys.exit(main(Path(sys.argv[1])))
