"""Avro: Confluent's wire format, writers' schemas under limits, and what is encoded and decoded one record at a time."""
