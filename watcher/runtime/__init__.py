"""What every shell module may use: configuration, database, logging, errors, ids, metrics, service life."""
