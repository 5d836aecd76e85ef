"""What task code may import inside a Torpor guest.

A task of runtime ``python`` is a function ``handler(input, context)``: ``input`` is the execution's JSON input as Python
values, ``context`` is a :class:`Context`, and what it returns is the result, anything that JSON can hold.
"""

from torpor._context import Context

__all__ = ["Context", "__version__"]
__version__ = "0.1.0"
