"""The files for clusters in docs/scale: what they start is a command of torchrun's that is one of Inlay's."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.run import get_args_parser

from inlay.cli.train import parse_settings

HERE = Path(__file__).parents[1] / "docs" / "scale"
SLURM = {"SLURM_JOB_NODELIST": "a,b", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "123456", "SLURM_GPUS_ON_NODE": "4"}


def check_command(words: Sequence[str], nodes: str, processes: str) -> dict[str, Any]:
    assert words[0] == "torchrun"
    asked = vars(get_args_parser().parse_args(words[1:]))
    assert (asked["nnodes"], asked["nproc_per_node"], asked["rdzv_backend"]) == (nodes, processes, "c10d")
    assert asked["max_restarts"] == 3
    assert asked["module"]
    assert asked["training_script"] == "inlay"
    verb, *arguments = asked["training_script_args"]
    assert verb == "train"
    settings = parse_settings(arguments)
    assert settings.go_on
    assert settings.out == "/runs/first"
    return asked


def fake(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/bash\n{script}\n")
    (folder / name).chmod(0o755)


def test_the_slurm_file_starts_one_torchrun_on_each_machine(tmp_path: Path) -> None:
    fake(tmp_path, "scontrol", 'test "$1 $2 $3" = "show hostnames a,b" && printf "a\\nb\\n"')
    fake(tmp_path, "srun", 'shift; printf "%s\\n" "$OMP_NUM_THREADS" "$TORCH_ELASTIC_SHUTDOWN_TIMEOUT" "$@"')
    done = subprocess.run(
        ["bash", str(HERE / "train.sbatch"), "base", "rows", "--out", "/runs/first"],
        env=os.environ | SLURM | {"SLURM_CPUS_PER_TASK": "32", "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    threads, patience, *words = done.stdout.splitlines()
    assert (threads, patience) == ("8", "500")
    asked = check_command(words, "2", "4")
    assert (asked["rdzv_id"], asked["rdzv_endpoint"]) == ("123456", "a:23456")


def test_the_kubernetes_file_starts_one_torchrun_in_each_pod() -> None:
    service, job = yaml.safe_load_all((HERE / "job.yaml").read_text())
    name, spec = job["metadata"]["name"], job["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert spec["completions"] == spec["parallelism"] == 2
    assert spec["completionMode"] == "Indexed"
    asked = check_command(container["command"], "2", "gpu")
    host, _, port = asked["rdzv_endpoint"].partition(":")
    assert host == f"{name}-0.{pod['subdomain']}"  # the pod of index 0, by its service's name
    assert port.isdecimal()
    assert service["metadata"]["name"] == pod["subdomain"]
    assert service["spec"]["selector"] == {"job-name": name}
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    assert (
        int({each["name"]: each["value"] for each in container["env"]}["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"])
        < (pod["terminationGracePeriodSeconds"])
    )


@pytest.mark.slow
def test_the_slurm_file_trains_on_one_machine(tiny_bert: str, reviews_folder: str, tmp_path: Path) -> None:
    fake(tmp_path, "scontrol", "echo 127.0.0.1")
    fake(tmp_path, "srun", f'shift 2; exec {sys.executable} -m torch.distributed.run "$@"')
    own = {"SLURM_JOB_NODELIST": "a", "SLURM_JOB_NUM_NODES": "1", "SLURM_GPUS_ON_NODE": "2"}
    run = [tiny_bert, reviews_folder, "--out", str(tmp_path / "run"), "--epochs", "1"]
    done = subprocess.run(
        ["bash", str(HERE / "train.sbatch"), *run],
        env=os.environ | SLURM | own | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert '"processes": 2' in (tmp_path / "run" / "summary.json").read_text()
