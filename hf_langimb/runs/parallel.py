"""Independent jobs in several processes of one machine, such as the trainings of small models on a CPU."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch
from accelerate import PartialState

from hf_langimb.console import bar


def at_once(work: Callable[[Any], Any], jobs: Sequence[Any], processes: int, device: str) -> None:
    """Train models in several processes, each with a share of the cores; nothing where one process is enough.

    Args:
        work: trains one model; see `in_processes`.
        jobs: of the models that are to be trained.
        processes: at the same time, if this is the only process of the program.
        device: of the trainings; on others than `cpu`, they are left to the caller.
    """
    processes = min(processes, os.cpu_count() or 1, len(jobs))
    if processes > 1 and PartialState().num_processes == 1 and device == "cpu":
        with bar(total=len(jobs), description="Training", unit="model") as progress:
            for _ in in_processes(work, jobs, processes):
                progress.update()


def in_processes(work: Callable[[Any], Any], jobs: Sequence[Any], processes: int) -> Iterator[Any]:
    """Do each job in one of several new processes, which share the cores; yields results as the jobs end.

    The processes are ended if a job fails, if the caller is interrupted, and if this process is killed.

    Args:
        work: a function of a module, which the processes import.
        jobs: its arguments, which can be pickled.
        processes: at the same time.

    Raises:
        ChildProcessError: a process was killed or could not start; says what to do.
        Exception: the first one that a job raises.
    """
    options: Any = {"mp_context": multiprocessing.get_context("spawn"), "initializer": _begin}
    options["initargs"] = (max((os.cpu_count() or 1) // processes, 1),)
    with ProcessPoolExecutor(processes, **options) as pool:
        try:
            for ended in as_completed([pool.submit(work, job) for job in jobs]):
                yield ended.result()
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "A process that trained a model was killed, perhaps because memory ran out, or could not start: run "
                "the same command again to continue, with a smaller --models_at_once if memory is short."
            ) from error
        except BaseException:  # also Ctrl-C
            for process in multiprocessing.active_children():
                process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin(threads: int) -> None:
    """Prepare a process: it has a share of the cores, leaves Ctrl-C to its parent, and ends with it."""
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent has ended, however that ended."""
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)
