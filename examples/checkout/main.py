"""What customers reach. It books an order and has the receipt signed, and could do neither by itself: it has no key and no database."""

import json

import torpor


def handler(input, context):
    items = [{"name": str(item["name"]), "count": int(item["count"]), "cents": int(item["cents"])} for item in input["items"]]
    order = {"customer": str(input["customer"]), "items": items, "cents": sum(item["count"] * item["cents"] for item in items)}
    number = torpor.portion("ledger").call(order)
    receipt = json.dumps({"number": number, **order}, sort_keys=True)
    return {"receipt": receipt, "signature": torpor.portion("sign").call(receipt)}
