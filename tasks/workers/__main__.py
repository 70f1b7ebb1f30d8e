"""A worker process: ``python -m augmill.tasks.workers FD PARENT_PID``."""

import gc
import sys

from augmill.tasks.workers.pool import serve

serve(int(sys.argv[1]), int(sys.argv[2]))
gc.freeze()  # else the interpreter looks for cycles in every module that it loaded before it ends
