"""What is decided about deliveries, without clock, socket, database or chance."""
