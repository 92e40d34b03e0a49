"""SQL in plain sight, one module per table family. Functions take a connection; the caller owns the transaction."""
