"""The language host: what runs a task's code. Nothing in here is for task code.

- ``wire``: frames and their kinds, as in Torpor's ``protocol`` crate. Pure.
- ``door``: the shared window and its doorbell.
- ``streams``: ``sys.stdout`` and ``sys.stderr`` that write to the door.
- ``failure``: from an exception, or a result that is none, to the message about it.
- ``alone``: whether nobody else is in the machine.
- ``rng``: random numbers of user mode.
- ``sockets``: whether there are connections to auxiliary services.
- ``stand``: waits of a program that is alone: it stands at the door.
- ``task``: loading a task's code, and one execution of it.
- ``warm``: everything that is better done before a template is taken than in an execution.
- ``main``: the states, in order.
"""
