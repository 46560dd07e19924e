"""Ray clusters of several nodes on this machine, for faults that take a node away.

``python -m benchmarks.chaos.nodes HEAD_CPUS NODE_CPUS ...`` starts one, prints its address, obeys the lines of its
input (``remove``, ``add``, ``lose``) and answers each with a line.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_STORE: dict[str, Any] = {"object_store_memory": 80 * 1024 * 1024}


class Nodes:
    """A cluster in a process of its own: ``cpus`` of its head and of its other nodes."""

    def __init__(self, cpus: Sequence[int], root: Path, folder: Path, environment: Mapping[str, str]) -> None:
        words = [sys.executable, "-m", "benchmarks.chaos.nodes", *map(str, cpus)]
        with (folder / "nodes.log").open("wb") as log:
            pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log, "text": True}
            self._process: subprocess.Popen[str] = subprocess.Popen(words, cwd=root, env=dict(environment), **pipes)
        self.address = self._answer()

    def tell(self, word: str) -> None:
        """Have the cluster ``remove`` or ``add`` a node, or ``lose`` its head, and wait until it is done."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline().strip()
        if not answer:
            raise RuntimeError(f"the cluster of several nodes ended with exit code {self._process.wait(30)}")
        return answer

    def close(self) -> None:
        """End the cluster."""
        if self._process.poll() is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(60)


def main() -> None:
    """Start the cluster and obey."""
    from ray.cluster_utils import Cluster

    head, *others = (int(word) for word in sys.argv[1:])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": head, "include_dashboard": False, **_STORE})
    for cpus in others:
        cluster.add_node(num_cpus=cpus, **_STORE)
    print(cluster.address, flush=True)
    for line in sys.stdin:
        word = line.strip()
        if word == "remove":
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        elif word == "add":
            cluster.add_node(num_cpus=others[0], **_STORE)
        else:
            assert word == "lose"
            assert cluster.head_node is not None
            cluster.head_node.kill_gcs_server()
        print("done", flush=True)
    cluster.shutdown()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
