"""Many runs on a SLURM cluster: python params/cluster/slurm.py

Start it where the folders of the project, the data, the cache and the runs are the ones that the jobs see; a login node will
do, as it trains nothing. Install dask-jobqueue first: pip install dask-jobqueue
"""

from __future__ import annotations

from dask_jobqueue import SLURMCluster

from thyroid_utils.common.config import RunConfig
from thyroid_utils.training.engine import run_all

CONFIGS = [
    RunConfig(
        data={"dataset": "ddti", "root": "/shared/data/ddti"},  # as the jobs see it
        model={"name": model, "weights": "imagenet"},
        seed=seed,
    )
    for model in ("resnet18", "vgg16")
    for seed in range(5)
]


def main() -> None:
    with SLURMCluster(
        queue="gpu",  # your partition
        processes=1,
        cores=1,  # a worker trains one run at a time; this is not what SLURM is asked for, job_cpu is
        job_cpu=8,
        memory="32GB",
        walltime="08:00:00",  # a run that it cuts off is resumed by the next job
        job_extra_directives=["--gres=gpu:1"],  # one GPU a worker
        # A worker that stops before its time is up hands its runs over instead of being counted as dead.
        worker_extra_args=["--lifetime", "7h30m", "--lifetime-stagger", "10m"],
    ) as cluster:
        cluster.adapt(minimum=0, maximum=4)  # as many jobs at once as you may have
        for run in run_all(CONFIGS, engine="dask", address=cluster.scheduler_address):
            print(run.name, run.config.model.name, run.config.seed, run.metrics["test"]["auc"])


if __name__ == "__main__":
    main()
