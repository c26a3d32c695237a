"""Events of a file to Kafka: how they are written and sent, and the account for people. `streamer.adapters.files` makes them."""
