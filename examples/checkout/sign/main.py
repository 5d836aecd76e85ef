"""Signs receipts. The only code that ever has the key in its memory; what it signs comes from code that nobody trusts, so it looks at it first."""

import hashlib
import hmac
import json

import torpor

KEYS = {"number", "customer", "items", "cents"}


def sign(input, context):
    receipt = json.loads(input)
    if not isinstance(receipt, dict) or set(receipt) != KEYS:
        raise ValueError("this is no receipt")
    if receipt["cents"] != sum(item["count"] * item["cents"] for item in receipt["items"]):
        raise ValueError("the sum of the receipt is wrong")
    return hmac.new(torpor.secret("signing-key").encode(), input.encode(), hashlib.sha256).hexdigest()
