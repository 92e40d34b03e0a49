"""The HTTP API.

    request ─▶ server (log, metrics, problems) ─▶ dispatch (who, what, once only) ─▶ handler ─▶ store

`routes` is the table of all calls: the server, the OpenAPI document and the documentation page are made from it.
Handlers stand in one module per kind of object; what they take and answer stands in `schemas`.
"""
