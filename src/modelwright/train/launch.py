"""What a launcher says: who this process is among all, and where they meet; and what it is told
when they break off."""

import contextlib
import datetime
import os
import re
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from modelwright.core.errors import ConfigError, Exit, ModelwrightError, StorageError
from modelwright.core.files import write_json

PORT = 29_500  # of SLURM jobs, plus what the job's number gives
MEETING = datetime.timedelta(minutes=10)  # that processes of one training may start apart
LEAVING_S = 5.0  # that others give the first process to write its ledger before they end
SAID, LEFT = "said", "left"  # keys of the store


@dataclass(frozen=True)
class Place:
    """Which process this is: its number among all and on its machine; how many there are."""

    rank: int = 0
    local_rank: int = 0
    size: int = 1


class Left(ModelwrightError):
    """The first process gave up, and said why; this one ends with its exit code."""

    def __init__(self, code: int) -> None:
        super().__init__("the first process stopped, and has said why")
        self.exit_code, self.said = Exit(code), True


def place_of(environment: Mapping[str, str]) -> Place:
    """From what torchrun or SLURM's srun set; one process alone where neither did.

    Raises: ConfigError if a variable is no number, or none that fits the others.
    """
    torchrun = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    slurm = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS")
    for names in (torchrun, slurm):
        if all(name in environment for name in names):
            try:
                place = Place(*(int(environment[name]) for name in names))
                if 0 <= place.local_rank <= place.rank < place.size:
                    return place
            except ValueError:
                pass
            told = ", ".join(f"{name}={environment[name]}" for name in names)
            raise ConfigError(
                f"{told} are not this process's numbers among all of them",
                expected="what torchrun or srun sets: a number from 0, its own on this machine, "
                "how many there are",
                repair="start with torchrun or srun, or unset them for one process",
            )
    return Place()


def restarts(environment: Mapping[str, str]) -> int:
    """How often torchrun has started all processes anew."""
    return int(environment.get("TORCHELASTIC_RESTART_COUNT") or 0)


def meet(
    environment: Mapping[str, str], place: Place, backend: str, wait: datetime.timedelta
) -> Store:
    """Make a group of all processes; gives where they found each other: of each restart its own, or
    it would find the addresses of the one before.

    Args:
        wait: how long one may wait for another, once they have met.
    Raises: ConfigError if MASTER_PORT is no port, or if they can't meet there.
    """
    nodes = environment.get("SLURM_STEP_NODELIST", environment.get("SLURM_JOB_NODELIST", ""))
    job = int(re.sub(r"\D", "", environment.get("SLURM_JOB_ID", "")) or 0)
    address = environment.get("MASTER_ADDR") or first_node(nodes)
    asked = environment.get("MASTER_PORT") or str(PORT + job % 1000)
    port = int(asked) if asked.isdecimal() else 0
    if not 0 < port < 2**16:
        raise ConfigError(
            f"MASTER_PORT={asked} is no port",
            expected="a number from 1 to 65535",
            repair="unset it, or give one that is free on the first process's machine",
        )
    elsewhere = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        found = TCPStore(
            address, port, place.size, is_master=not elsewhere and place.rank == 0, timeout=MEETING
        )
        store = PrefixStore(str(restarts(environment)), found)
        store.set_timeout(wait)
        dist.init_process_group(
            backend, store=store, rank=place.rank, world_size=place.size, timeout=wait
        )
    except dist.DistError as error:
        raise ConfigError(
            f"process {place.rank} of {place.size} found no others at {address}, port {port}: "
            + str(error).partition("\n")[0],
            expected=f"all of them started within {MEETING.seconds / 60:.0f} minutes, and a port "
            "that is free on the first one's machine and open to the others",
            repair="set MASTER_PORT (of torchrun, --master-port) to another port, and MASTER_ADDR "
            "to the first one's machine",
        ) from error
    return store


def break_off(store: Store, rank: int, error: Exception) -> None:
    """Of several processes that end with errors, let one speak: the first to come here, since what
    the others see are mostly consequences. The first process leaves first: a launcher that sees
    another one end would stop it while it writes the ledger."""
    end = time.monotonic() + LEAVING_S
    store.set_timeout(datetime.timedelta(seconds=LEAVING_S))
    with contextlib.suppress(RuntimeError):  # its host is gone: then everybody speaks
        # who only leaves because the first one did has nothing to say, however early it comes here
        leaves = isinstance(error, ModelwrightError) and error.said
        if not leaves and store.add(SAID, 1) == 1:
            tell_launcher(error)
        elif isinstance(error, ModelwrightError):
            error.said = True
        if rank == 0:
            store.set(LEFT, "")
        while time.monotonic() < end and not store.check([LEFT]):
            time.sleep(0.05)  # the store's own way to wait says on stderr when it is over


def tell_launcher(error: Exception, environment: Mapping[str, str] = os.environ) -> None:
    """Put an error where torchrun looks for it: the table that it ends with then shows it.

    Source: torch.distributed.elastic's error files (docs.pytorch.org, elastic/errors).
    """
    path = environment.get("TORCHELASTIC_ERROR_FILE")
    if path is None:
        return
    more = {"timestamp": str(int(time.time()))}
    if not isinstance(error, ModelwrightError):  # a bug: its place helps
        more["py_callstack"] = "".join(traceback.format_exception(error))
    with contextlib.suppress(StorageError):
        write_json(Path(path), {"message": {"message": str(error), "extraInfo": more}})


def first_node(nodes: str) -> str:
    """The first name in SLURM's list of nodes.

    >>> first_node("gpu[07-09,12],login1"), first_node("a1,a2"), first_node("")
    ('gpu07', 'a1', '127.0.0.1')
    >>> first_node("rack[1-2]node[3-4]"), first_node("gpu-[01-02]-[1,4],x")
    ('rack1node3', 'gpu-01-1')
    """
    found = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", found[0]) if found else "127.0.0.1"
