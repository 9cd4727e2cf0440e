"""Fakes that ship: a provider that misbehaves on request, and an auditor that trusts nobody."""
