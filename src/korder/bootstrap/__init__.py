"""The only composition root: which object serves which contract is decided here, nowhere else."""

from korder.bootstrap.api import Api, run_api
from korder.bootstrap.server import serve
from korder.bootstrap.sessions import SessionWatch
from korder.bootstrap.worker import run_worker

__all__ = ["Api", "SessionWatch", "run_api", "run_worker", "serve"]
