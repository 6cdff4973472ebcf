"""Sign-in through the operator's OpenID provider: the authorisation code flow with PKCE.

RFC 6749 §4.1, RFC 7636, RFC 9207, OpenID Connect Core 1.0 §3.1 and Discovery 1.0 §4.

    provider   what the provider publishes, and the exchange of a code for an id token, within limits
    id_token   whom an id token names, once all of it is checked
    pages      the way there and back
"""
