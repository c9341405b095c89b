"""A shadow: latency of the predictor in front with and without one, as ratios of alternating arms of one run.

usage: mistere bench shadow [--bundle BUNDLE] [--output DIR] [--rounds 20] [--requests 50] [--share 1.0] [--clients 1] [--parts elsewhere,here]

Two predictors of one bundle get the same requests in turns, at half of what they could answer; one of them copies. In the part
`elsewhere` the shadow answers at once, which leaves the cost of copying. In `here` it is a real predictor on this machine, of a bundle
with other probabilities, which runs at the lowest priority.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mistere.artifacts.io import artifact_key, open_artifact, publish
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import LocalStore
from mistere.serving.deployment import Deployment
from mistere.serving.shadow.pointer import Shadow, write_shadow
from tests.bench.shared.requests import Send, rest_sender, v1_body, versions
from tests.bench.shared.served_bundle import bundle_and_example, bundle_parser
from tests.bench.shared.servers import free_port, predictor, running

_PATH = "/v1/models/mistere:predict"
_UTTERANCES = 2
"""Utterances of a request, all new: about what a live conversation adds."""


def measure(send: Send, requests: int, clients: int) -> np.ndarray:
    """Seconds of requests, each followed by a pause as long as it took."""
    durations: list[list[float]] = [[] for _ in range(clients)]

    def work(client: int) -> None:
        for number in range(client, requests, clients):
            start = time.perf_counter()
            send(number)
            durations[client].append(time.perf_counter() - start)
            time.sleep(durations[client][-1])

    threads = [threading.Thread(target=work, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return np.array([one for each in durations for one in each])


def copies(port: int) -> dict[str, int]:
    """Copies by outcome."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    found = re.findall(r'mistere_shadow_copies_total\{outcome="(\w+)"\} (\S+)', text)
    return {name: int(float(count)) for name, count in found}


def compare(bundle: str, options: list[str], bodies: list[bytes], arguments: argparse.Namespace, name: str) -> None:
    """Alternate the arms in the order without, with, with, without, and print the ratios."""
    shared = ("--vector-store-mib", "0", "--audio-store-mib", "0")
    copying = ("--shadow-share", str(arguments.share), *options)
    with predictor(bundle, *shared) as without, predictor(bundle, *shared, *copying) as with_shadow:
        ports = {"without": without.port, "with": with_shadow.port}
        senders = {arm: rest_sender(port, _PATH, bodies) for arm, port in ports.items()}
        deadline = time.monotonic() + 120
        while not copies(with_shadow.port).get("compared"):
            senders["with"](0)
            if time.monotonic() > deadline:
                raise SystemExit("the shadow was not found")
            time.sleep(0.1)
        for send in senders.values():
            measure(send, 2 * arguments.requests, arguments.clients)
        before = copies(with_shadow.port)
        blocks: dict[str, list[np.ndarray]] = {"without": [], "with": []}
        for _ in range(arguments.rounds):
            for arm in ("without", "with", "with", "without"):
                blocks[arm].append(measure(senders[arm], arguments.requests, arguments.clients))
        after = copies(with_shadow.port)
    generator = np.random.default_rng(0)
    outcomes = {key: after[key] - before.get(key, 0) for key in after if after[key] > before.get(key, 0)}
    print(f"{name}: {', '.join(f'{count} {outcome}' for outcome, count in outcomes.items())}")
    for label, share in (("p50", 0.5), ("p99", 0.99)):
        values = {arm: np.quantile(np.concatenate(each), share) for arm, each in blocks.items()}
        ratios = []
        for _ in range(1000):
            drawn = generator.integers(0, len(blocks["with"]), len(blocks["with"]))
            one, other = (np.quantile(np.concatenate([blocks[arm][at] for at in drawn]), share) for arm in blocks)
            ratios.append(other / one)
        low, high = np.quantile(ratios, (0.025, 0.975))
        print(
            f"  {label}: {1000 * values['without']:.2f} ms without, {1000 * values['with']:.2f} ms with: "
            f"{values['with'] / values['without']:.3f}x ({low:.3f} to {high:.3f})"
        )


@contextmanager
def store_with_shadow(bundle: str) -> Iterator[str]:
    """A store of its own with the bundle and, as its shadow, the same model at another temperature; yields the bundle."""
    source = Path(bundle)
    with tempfile.TemporaryDirectory(prefix="mistere-bench-") as folder:
        root = Path(folder) / "store"
        shutil.copytree(source.parents[2] / "artifacts", root / "artifacts", copy_function=os.link)
        store = LocalStore(root)
        handle = open_artifact(store, ModelBundle, source.name)
        work = Path(folder) / "bundle"
        shutil.copytree(handle.path, work)
        (work / "manifest.json").unlink()
        changed = handle.manifest.model_copy(update={"temperature": 0.5, "files": {}, "digest": ""})
        digest = publish(store, changed, work).digest
        location = store.location(artifact_key("ModelBundle", digest))
        deployment = Deployment(service="mistere", bundle_location=location, bundle_digest=digest, model_version="2")
        write_shadow(store, Shadow(deployment=deployment, model_name="mistere", started_at=0.0, by="bench"))
        yield str(root / "artifacts" / "ModelBundle" / source.name)


def main() -> None:
    parser = bundle_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--requests", type=int, default=50, help="requests of a block")
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--parts", default="elsewhere,here")
    arguments = parser.parse_args()
    bundle, example = bundle_and_example(arguments)
    bodies = [v1_body(dialogue) for dialogue in versions(example[:_UTTERANCES], 64)]
    parts = set(arguments.parts.split(","))
    with store_with_shadow(bundle) as copied:
        labels = open_artifact(LocalStore(Path(copied).parents[2]), ModelBundle, Path(copied).name).manifest.labels
        if "elsewhere" in parts:
            port = free_port()
            script = Path(__file__).parent / "reference" / "quick_shadow.py"
            with running([sys.executable, str(script), str(port), ",".join(labels)], port, "/v2"):
                compare(copied, ["--shadow", f"http://127.0.0.1:{port}"], bodies, arguments, "shadow elsewhere")
        if "here" in parts:
            compare(copied, ["--shadow", "local"], bodies, arguments, "shadow on this machine")


if __name__ == "__main__":
    main()
