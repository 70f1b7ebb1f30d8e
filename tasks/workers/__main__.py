"""A worker process: ``python -m augmill.tasks.workers FD PARENT_PID``."""

import sys

from augmill.tasks.workers.pool import serve

serve(int(sys.argv[1]), int(sys.argv[2]))
