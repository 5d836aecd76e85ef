"""The portion that has the secret: it keeps it over waits, and gives back what shows that it had it."""

import torpor

try:
    torpor.secret("signing-key")
    AT_IMPORT = True
except torpor.NotInGuest:
    AT_IMPORT = False


def sign(value, context):
    key = torpor.secret("signing-key")
    print("it has", len(key), "characters")
    torpor.sleep(value["sleep"])
    torpor.event().wait()
    return {"reversed": key[::-1], "at_import": AT_IMPORT}


def alone(value, context):
    """The same as a task's own entry."""
    key = torpor.secret("signing-key")
    torpor.sleep(value["sleep"])
    print("after")
    return key[::-1]
