"""Started by the guest agent as ``python3 -I host.py DOOR CONTROL RAW MEMORY_MIB``: the language host of runtime ``python``.

The arguments are the numbers of inherited descriptors (see ``torpor._host.main``) and the guest's memory.
"""

import sys

from torpor._host.main import main

if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:5]))
