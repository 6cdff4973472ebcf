"""Messages as values: addresses checked by one grammar, drafts composed to the bytes that go on the wire."""
