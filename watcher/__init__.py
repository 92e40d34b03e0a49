"""paywatch: follows bitcoind, judges invoices, and writes what merchants are to be told. See docs/architecture.md."""

__version__ = "0.1.0"
