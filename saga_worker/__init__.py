"""Sagas over RabbitMQ and PostgreSQL, with a transactional inbox and outbox."""

__version__ = "0.1.0"
