"""Processes reused by many tests: starting one costs more than most tests."""

import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.multiprocessing as multiprocessing


class Ranks:
    """``count`` processes in one group; ``ranks(function, *args)`` runs a function in all of them."""

    def __init__(self, count: int, backend: str = "gloo") -> None:
        context = multiprocessing.get_context("spawn")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._pipes, self._processes = [], []
        for rank in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, rank, count, port, backend), daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)

    def __call__(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """What the function returns in each process; raises if it raised in any."""
        for pipe in self._pipes:
            pipe.send((function, args))
        answers = []
        for rank, pipe in enumerate(self._pipes):
            if not pipe.poll(200):
                raise RuntimeError(f"rank {rank} does not answer")
            answers.append(pipe.recv())
        failures = [f"rank {rank}:\n{error}" for rank, (_, error) in enumerate(answers) if error]
        if failures:
            raise AssertionError("\n".join(failures))
        return [result for result, _ in answers]

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()


def _serve(pipe: Any, rank: int, count: int, port: int, backend: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHINDUCTOR_COMPILE_THREADS="1")
    torch.set_num_threads(1)
    if backend == "nccl":
        torch.cuda.set_device(rank)
    torch.distributed.init_process_group(backend, rank=rank, world_size=count)
    while True:
        function, args = pipe.recv()
        try:
            pipe.send((function(*args), ""))
        except BaseException:
            pipe.send((None, traceback.format_exc()))
