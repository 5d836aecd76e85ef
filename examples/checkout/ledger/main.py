"""Books orders in a PostgreSQL database, which it reaches under the name `db`."""

import json

import postgres


def book(input, context):
    with postgres.Connection("db", 5432, user="checkout", database="shop") as db:
        db.query("BEGIN")
        db.query("CREATE TABLE IF NOT EXISTS orders (number serial PRIMARY KEY, body text NOT NULL, cents bigint NOT NULL)")
        body = postgres.quoted(json.dumps(input))
        [[number]] = db.query(f"INSERT INTO orders (body, cents) VALUES ({body}, {int(input['cents'])}) RETURNING number")
        db.query("COMMIT")
    return int(number)
