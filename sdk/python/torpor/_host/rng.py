"""Random numbers of user mode: the shared generator of ``random``, and that of ``ssl``.

They start anew with each execution and each time that a parked machine is resumed, unless the program has seeded ``random`` itself meanwhile: it
wants the numbers that follow then. To know that, ``random.seed`` and ``random.setstate`` are replaced by functions that do the same and note it.
"""

import functools
import os
import random
import sys

_seed = random.seed
_setstate = random.setstate
_own = False


@functools.wraps(_seed)
def seed(a=None, version=2):
    global _own
    _own = a is not None
    return _seed(a, version)


@functools.wraps(_setstate)
def setstate(state):
    global _own
    _own = True
    return _setstate(state)


def watch():
    """From here on it is noted."""
    random.seed = seed
    random.setstate = setstate


def start(entropy):
    """For a new execution: ``entropy`` in hexadecimal digits."""
    global _own
    _own = False
    _renew(entropy)


def resume(entropy=None):
    """For a machine that was parked. The kernel's generator has been given new entropy already."""
    _renew(entropy or os.urandom(32).hex())


def _renew(entropy):
    if not _own:
        _seed(int(entropy, 16))
    ssl = sys.modules.get("ssl")
    if ssl is not None:
        ssl.RAND_add(bytes.fromhex(entropy), 32.0)
