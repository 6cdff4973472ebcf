"""Where access tokens come from: Microsoft's sign-in service, Google's, and any other that follows RFC 6749."""
