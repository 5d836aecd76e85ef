"""A print shop's order: has the text looked at by two other tasks, gives the proof time to dry, and waits until somebody has paid for it."""

import base64

import torpor

CENTS_PER_THOUSAND_WORDS = 45


def handler(text, context):
    if not isinstance(text, str):
        raise TypeError("the input is a text: one JSON string")

    # Both run at once, each in a machine of its own.
    words = torpor.spawn("wordcount", text)
    checksum = torpor.spawn("checksum", base64.b64encode(text.encode()).decode())
    counted, summed = torpor.gather([words, checksum])
    cents = -(-counted["words"] * CENTS_PER_THOUSAND_WORDS // 1000)

    torpor.sleep(2)

    payment = torpor.event()
    print(f"{counted['words']} words, {cents} cents; when it is paid: torpor signal {payment.token} --data '\"NAME\"'")
    payer = payment.wait()

    return {"words": counted["words"], "sha256": summed["sha256"], "cents": cents, "paid_by": payer}
