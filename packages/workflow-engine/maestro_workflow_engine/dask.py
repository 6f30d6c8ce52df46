"""Attempts on a Dask cluster: the one module that needs the extra `dask`.

Our engine keeps graph, journal, retries and results; Dask only executes attempts.
So a worker that dies costs what it was doing, not what it had done.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from time import time
from typing import Any, final

from ._arguments import hinted, whole, wrong
from ._executors._futures import call_remote
from ._model import Attempt, Outcome
from .errors import StepCancelledError

try:
    import distributed
except ImportError as error:
    raise ImportError(
        "running steps on Dask needs distributed: "
        'pip install "maestro-workflow-engine[dask]"'
    ) from error

# distributed comes without annotations; this says so once.
_distributed: Any = distributed


@final
@hinted
class DaskExecutor:
    """Runs attempts through a `distributed.Client`.

    Args:
        client: connected to your cluster, on Kubernetes or anywhere; it stays yours.
        slots: attempts in flight; by default the cluster's threads when first asked.

    Dask itself runs an attempt again whose worker died; `once` steps are given to it
    without that, and come back as lost.
    """

    def __init__(self, client: Any, slots: int | None = None) -> None:
        if not callable(getattr(client, "nthreads", None)):
            raise wrong("DaskExecutor", "client", "a distributed.Client", client)
        if slots is not None:
            whole("DaskExecutor", "slots", slots)
        self._client = client
        self.slots: int = slots or max(1, sum(client.nthreads().values()))
        self._lock = threading.Lock()  # guards _futures
        self._futures: dict[Attempt, Any] = {}
        self._own: tuple[Any, Any] | None = None

    @classmethod
    def local(cls, workers: int) -> DaskExecutor:
        """Start a cluster of processes on this machine, which `close` stops."""
        whole("DaskExecutor.local()", "workers", workers)
        cluster = _distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=None,
            host="127.0.0.1",
        )  # fmt: skip
        client = _distributed.Client(cluster)
        made = cls(client, workers)
        made._own = (client, cluster)
        return made

    def start(
        self, attempts: Sequence[Attempt], done: Callable[[Outcome], None]
    ) -> None:
        """Submit each attempt under a name that no other attempt has."""
        for attempt in attempts:
            kwargs = attempt.kwargs
            if attempt.spec.wants_ctx:
                kwargs = kwargs | {"ctx": attempt.context()}
            future = self._client.submit(
                call_remote, attempt.spec.target, tuple(attempt.args), kwargs,
                attempt.chunked, key=attempt.id, pure=False,
                allow_other_workers=False, fifo_timeout="0ms",
            )  # fmt: skip
            with self._lock:
                self._futures[attempt] = future
            future.add_done_callback(self._reporter(attempt, done))

    def _reporter(
        self, attempt: Attempt, done: Callable[[Outcome], None]
    ) -> Callable[[Any], None]:
        submitted = time()

        def report(future: Any) -> None:
            with self._lock:
                self._futures.pop(attempt, None)
            error: BaseException | None = None
            result: Any = (None, submitted, time(), "dask")
            lost = False
            if future.status == "cancelled":
                error = StepCancelledError(attempt.step, attempt.number, "stopped")
            elif future.status == "error":
                error = future.exception().with_traceback(future.traceback())
                lost = type(error).__name__ == "KilledWorker"
            else:
                result = future.result()
            value, started, ended, worker = result
            future.release()
            done(Outcome(attempt, value, error, started, ended, worker, lost))

        return report

    def cancel(self, attempt: Attempt) -> None:
        """Cancel the attempt; one that runs already goes on to its end unheard."""
        with self._lock:
            future = self._futures.get(attempt)
        if future is not None:
            future.cancel()

    def close(self) -> None:
        """Forget what is in flight; stop the cluster that `local` started."""
        with self._lock:
            futures = list(self._futures.values())
        for future in futures:
            future.cancel()
        if self._own is not None:
            client, cluster = self._own
            self._own = None
            client.close()
            cluster.close()
