"""Several machines that train one model: LightGBM's data-parallel learner over the hosts of a training job.

Every host reads the whole ledger, a batch at a time, but keeps only its share of the training rows in memory, finds
bins with the others and adds its histograms to theirs; so all grow the same trees, and the same tree is one that a
single machine might have grown (Meng et al., "A communication-efficient parallel algorithm for decision tree",
NeurIPS 2016, whose voting is not used). All hold the stopping rows too, and so stop at the same round without a word.
The first host alone grades and writes.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import zlib
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from fraud.errors import PlatformError
from fraud.serving import libgomp

PORTS = range(20_000, 30_000)  # below those that systems give to clients
PATIENCE = 900.0  # seconds for the others to appear: they may still be downloading
MINUTES = 60  # for an answer in the middle of training: the first host grades older folds meanwhile

logger = logging.getLogger("fraud.train")


def leads(p: Namespace) -> bool:
    """Whether this is the host that grades and writes."""
    return bool(p.current_host == p.hosts[0])


def share(p: Namespace, mask: np.ndarray) -> np.ndarray:
    """Rows of a mask that this host keeps: every n-th, so that all hosts see all times and find fair bins."""
    places = np.flatnonzero(mask)[p.hosts.index(p.current_host) :: len(p.hosts)]
    mine = np.zeros(len(mask), bool)
    mine[places] = True
    return mine


def settings(p: Namespace) -> dict[str, Any]:
    """LightGBM's parameters; none for a host alone."""
    if len(p.hosts) == 1:
        return {}
    return {"tree_learner": "data", "num_machines": len(p.hosts), "pre_partition": True}


@contextmanager
def connected(p: Namespace) -> Iterator[None]:
    """Hold the network of the hosts; does nothing for a host alone.

    Parameters
    ----------
    p : Namespace
        ``hosts``, ``current_host``, ``network_interface``: as SageMaker's variables ``SM_…`` name them.

    Raises
    ------
    PlatformError
        When a host has no address, or the others do not appear.
    """
    if len(p.hosts) == 1:
        yield
        return
    lightgbm = libgomp.lightgbm()
    # By the job's name, for jobs that share a machine; and one for each host, for hosts that do.
    first = PORTS.start + zlib.crc32(os.environ.get("TRAINING_JOB_NAME", "").encode()) % (len(PORTS) - len(p.hosts))
    machines = [f"{address(host, p.network_interface)}:{first + k}" for k, host in enumerate(p.hosts)]
    port = first + p.hosts.index(p.current_host)
    # The network must stand before the rows are binned, and LightGBM's interface hangs it on a model.
    carrier = lightgbm.Booster({"verbosity": -1}, lightgbm.Dataset(np.eye(2), [0, 1], params={"verbosity": -1}))
    try:
        carrier.set_network(machines, port, MINUTES, len(machines))
    except lightgbm.basic.LightGBMError as error:
        raise PlatformError(f"{p.current_host} cannot train with {', '.join(p.hosts)}: {error}.") from error
    logger.info("%s of %d hosts is connected", p.current_host, len(p.hosts))
    try:
        yield
    finally:
        carrier.free_network()


def address(host: str, interface: str) -> str:
    """Address of a host; on the loopback interface all are this machine.

    Raises
    ------
    PlatformError
        When it has none for 15 minutes.
    """
    if interface == "lo":
        return "127.0.0.1"
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return socket.gethostbyname(host)
        except OSError as error:
            if time.monotonic() > until:
                raise PlatformError(f"The host {host} of the training job has no address: {error}.") from error
            time.sleep(1.0)
