"""Rates that were used. Every one is kept, so that late money can be valued at the moment it came."""

# The id and time of the quote that an invoice locks: the newest one of its currency as long as rate and source
# are the same, else a new one. A BTC invoice gives no rate and locks nothing. To be used as two steps of a
# statement with the parameters $1 currency, $2 rate, $3 source, $4 quoted_at.
LOCK = """
last AS (
  SELECT id, rate, source, quoted_at FROM quote WHERE currency = $1 ORDER BY quoted_at DESC, id DESC LIMIT 1
), fresh AS (
  INSERT INTO quote (currency, rate, source, quoted_at)
  SELECT $1, $2::numeric, $3, $4::timestamptz
  WHERE $2::numeric IS NOT NULL AND NOT EXISTS (SELECT FROM last WHERE rate = $2 AND source = $3)
  RETURNING id, quoted_at
), quoted AS (
  SELECT id, quoted_at FROM fresh UNION ALL SELECT id, quoted_at FROM last WHERE rate = $2 AND source = $3
)
"""
