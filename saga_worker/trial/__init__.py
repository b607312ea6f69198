"""PostgreSQL and AMQP for demo and tests on a machine that has neither; never for production."""
