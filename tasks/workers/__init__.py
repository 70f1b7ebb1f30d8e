"""Worker processes, and the jobs they are sent."""

from augmill.tasks.workers.pool import WATCH_SECONDS, WorkerPool, find_devices, worker_pool

__all__ = ["WATCH_SECONDS", "WorkerPool", "find_devices", "worker_pool"]
