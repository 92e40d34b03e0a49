"""Rates that were used. Every one is kept, so that late money can be valued at the moment it came."""

# The id and time of the quote that an invoice locks at the fixed rate: the newest one of its currency as long as rate
# and source are the same and it has not ended, else a new one. A BTC invoice, and one whose quote has a row already,
# give no rate here and lock nothing. To be used as steps of a statement with the parameters $1 currency, $2 rate,
# $3 source, $4 quoted_at.
LOCK = """
newest AS (
  SELECT * FROM quote WHERE currency = $1 ORDER BY quoted_at DESC, id DESC LIMIT 1
), last AS (
  SELECT id, quoted_at FROM newest WHERE rate = $2 AND source = $3 AND held_until IS NULL
), fresh AS (
  INSERT INTO quote (currency, rate, source, quoted_at)
  SELECT $1, $2::numeric, $3, $4::timestamptz WHERE $2::numeric IS NOT NULL AND NOT EXISTS (SELECT FROM last)
  RETURNING id, quoted_at
), quoted AS (
  SELECT id, quoted_at FROM fresh UNION ALL SELECT id, quoted_at FROM last
)
"""
