"""The only SQL: durable rows behind one narrow protocol."""
