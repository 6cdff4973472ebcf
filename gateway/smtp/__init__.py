"""SMTP out: dial under the egress policy, open a session, run pipelined transactions, keep sessions for the next."""
