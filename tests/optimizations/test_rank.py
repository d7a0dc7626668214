"""torchrun starts the same command on two hosts, here two network namespaces, and they compute one model together."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def two_hosts() -> Iterator[tuple[str, str]]:
    """Names of two network namespaces joined by a cable, 10.99.0.1 and 10.99.0.2."""
    mark = uuid.uuid4().hex[:6]
    names = f"lk{mark}a", f"lk{mark}b"
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", f"{names[0]}v", "netns", names[0], "type", "veth", "peer", f"{names[1]}v", "netns", names[1])
        for number, name in enumerate(names, start=1):
            ip("-n", name, "addr", "add", f"10.99.0.{number}/24", "dev", f"{name}v")
            ip("-n", name, "link", "set", f"{name}v", "up")
            ip("-n", name, "link", "set", "lo", "up")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"network namespaces cannot be made here: {getattr(error, 'stderr', '') or error}")
    else:
        yield names
    finally:
        for name in names:
            with suppress(OSError, subprocess.CalledProcessError):
                ip("netns", "del", name)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_hosts_compute_one_model(two_hosts: tuple[str, str], tiny_model: str, tmp_path: Path) -> None:
    command = [
        "bench", "--json", "-", "--effort", "quick", "--model", tiny_model, "--prompt-tokens", "8", "--new-tokens", "4",
        "--recipe", "kv_cache", "--recipe", "kv_cache + tensor_parallel(num=2)",
    ]  # fmt: skip
    hosts = []
    for number, name in enumerate(two_hosts):
        torchrun = [
            *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"),
            *("--node-rank", str(number), "--master-addr", "10.99.0.1", "--master-port", "29417", "-m", "labkit"),
        ]
        home = tmp_path / name
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": f"{name}v", "LABKIT_HOME": str(home)}
        hosts.append(
            subprocess.Popen(
                ["ip", "netns", "exec", name, *torchrun, *command],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    (out, errors), _ = (host.communicate(timeout=500) for host in hosts)
    assert [host.returncode for host in hosts] == [0, 0] or "INVALID" in out + errors, errors[:3000]
    alone, split = json.loads(out)["runs"]
    assert split["status"] == "done"
    assert split["proof"]["is_equal"]
    assert split["build"]["ranks"] == 2
    assert split["metrics"]["communication_share"]["value"] > 0
    assert "communication_share" not in alone["metrics"]
    assert not (tmp_path / two_hosts[1] / "runs.sqlite3").exists()  # the command ran on the first only
