"""An untrusted main that has a trusted portion use a secret for it."""

import torpor


def handler(value, context):
    kept = value["marker"]
    torpor.sleep(value["sleep"])
    try:
        torpor.secret("signing-key")
        own = "given"
    except torpor.UnknownSecret:
        own = "not given"
    return [torpor.portion("sign").call({"sleep": value["sleep"]}), own, kept]
