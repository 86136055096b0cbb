"""`python -m korder.rush`: the load generator as a process of its own, under uvloop.

Reads one Plan (JSON) from standard input; writes one Message a line to standard output. A process
of its own so that progress bars and supervised children of the caller do not slow the crowd.
"""

import gc
import sys

import msgspec
import uvloop

from korder.rush.crowd import Crowd
from korder.rush.plan import Message, Plan


def main() -> None:
    """Run one rush; status 1 with a line on standard error when it cannot even connect."""
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    gc.freeze()
    gc.disable()  # a collection in the middle would be counted as the server's time

    def tell(message: Message) -> None:
        sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
        sys.stdout.buffer.flush()

    try:
        tell(uvloop.run(Crowd(plan, tell).rush()))
    except (OSError, TimeoutError) as error:
        sys.exit(f"cannot connect to {plan.base_url}: {error or type(error).__name__}")


if __name__ == "__main__":
    main()
