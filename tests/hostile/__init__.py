"""What an attacker or a fault may bring in from outside: generators and tables that the tests and the docs share."""
