"""The notifier: claims deliveries with a lease, posts them with no transaction open, records the answer."""
