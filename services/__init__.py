"""The three services. They share nothing but NATS; import-linter keeps them apart."""
